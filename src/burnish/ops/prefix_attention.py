"""Attention whose every row begins with keys and values that are not made of tokens: the prefixes of prefix tuning.

A row of n tokens with a prefix of P keys is attended to as one of P + n, whose first P queries are of no meaning and
thrown away. So a pack takes whatever kernel packs take, causal or not, and a token sees the whole prefix as it sees the
tokens before it. P more queries cost little beside a layer's products with its weights, which they never reach.

Shapes: B rows, S segments of a pack, T tokens, P prefix, H query heads, K key and value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.attention import packed_attention, visible

Chosen = tuple[tuple[range, ...], ...]
"""For each row, which of the prefix's keys it begins with; a row may begin with none."""


def packed_prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    lengths: tuple[int, ...],
    *,
    causal: bool,
    chosen: Chosen | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> Tensor:
    """``packed_attention`` where every segment's tokens see the prefix too; [1, T, H, E'].

    Args:
        query: [1, H, T, E].
        key: [1, K, T, E].
        value: [1, K, T, E'].
        prefix_key: [P, K, E].
        prefix_value: [P, K, E'].
        lengths: Lengths of the segments.
        causal: Whether a token sees only itself and earlier ones.
        chosen: Which of the P keys each segment has; segments behind the last have none. None: each has all.
        sliding_window: A token sees those tokens less than this many positions away, and the prefix from anywhere.
        **options: ``scaling``, ``dropout``, ``softcap``.
    """
    each = ((range(len(prefix_key)),),) * len(lengths) if chosen is None else chosen
    each = (*each, *[()] * (len(lengths) - len(each)))  # what fills a pack up
    fronts = [p.transpose(0, 1)[None].to(key.dtype) for p in (prefix_key, prefix_value)]
    if sliding_window is not None and sliding_window < max(lengths):
        return _windowed((query, key, value), fronts, each, lengths, causal, sliding_window, options)
    places, real = _places(lengths, each, len(prefix_key), query.device)
    keys, values = (
        torch.cat([front, tokens], dim=2).index_select(2, places)
        for front, tokens in zip(fronts, (key, value), strict=True)
    )
    queries = F.pad(query, (0, 0, len(prefix_key), 0)).index_select(2, places)
    longer = tuple(n + sum(map(len, own)) for n, own in zip(lengths, each, strict=True))
    return packed_attention(queries, keys, values, longer, causal=causal, **options).index_select(1, real)


def row_prefixes(
    key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor, chosen: Chosen | None = None
) -> tuple[Tensor, Tensor]:
    """Keys and values [B, K, P' + T, E] of padded rows, prefixes in front.

    P' is the longest that a row begins with; what stands before a shorter one is not to be seen (``shown_by_row``).
    """
    fronts = [p.to(key.dtype) for p in (prefix_key, prefix_value)]
    if chosen is None:
        fronts = [p.transpose(0, 1)[None].expand(key.shape[0], -1, -1, -1) for p in fronts]
    else:
        index, _ = _row_places(chosen, key.device)
        fronts = [p[index].transpose(1, 2) for p in fronts]
    return torch.cat([fronts[0], key], dim=2), torch.cat([fronts[1], value], dim=2)


def shown_prefix(mask: Tensor | None, count: int) -> Tensor | None:
    """A mask [..., T] grown by P columns that every query sees; of a float mask or a bias, zeros."""
    if mask is None:
        return None
    return F.pad(mask, (count, 0), value=True if mask.dtype == torch.bool else 0.0)


def shown_by_row(mask: Tensor, chosen: Chosen) -> Tensor:
    """A mask [B or 1, H or 1, T, S] grown by P' columns, of which the queries of each row see its own keys."""
    _, shown = _row_places(chosen, mask.device)
    front = shown[:, None, None, :]
    if mask.dtype != torch.bool:
        front = torch.zeros(front.shape, dtype=mask.dtype, device=mask.device).masked_fill(
            ~front, torch.finfo(mask.dtype).min
        )
    heads, tokens = mask.shape[1:3]
    return torch.cat([front.expand(-1, heads, tokens, -1), mask.expand(len(chosen), -1, -1, -1)], dim=3)


@lru_cache(maxsize=8)  # all layers of a forward and a backward pass ask for the same places
def _places(lengths: tuple[int, ...], each: Chosen, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each place of the longer pack comes from in [prefix, tokens], and where its tokens are."""
    made, start = [], count
    for length, own in zip(lengths, each, strict=True):
        made += [torch.arange(part.start, part.stop) for part in (*own, range(start, start + length))]
        start += length
    places = torch.cat(made)
    return places.to(device), (places >= count).nonzero().flatten().to(device)


@lru_cache(maxsize=8)
def _row_places(chosen: Chosen, device: torch.device) -> tuple[Tensor, Tensor]:
    """[B, P'] which key stands where before each row, shorter prefixes right before it, and which of them are any."""
    rows = [[place for part in own for place in part] for own in chosen]
    width = max(map(len, rows))
    index = torch.tensor([[0] * (width - len(row)) + row for row in rows], dtype=torch.long)
    shown = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    return index.to(device), shown.to(device)


def _windowed(
    parts: tuple[Tensor, Tensor, Tensor],
    fronts: Sequence[Tensor],
    each: Chosen,
    lengths: Sequence[int],
    causal: bool,
    window: int,
    options: dict[str, Any],
) -> Tensor:
    """Row by row with a mask: a window over tokens does not slide over the prefix."""
    if options.get("softcap") is not None:
        raise ValueError("capped scores under a sliding window take no prefix")
    outputs = []
    for own, query, *tokens in zip(each, *(t.split(list(lengths), dim=2) for t in parts), strict=True):
        key, value = (
            torch.cat([*(front[:, :, part.start : part.stop] for part in own), one], dim=2)
            for front, one in zip(fronts, tokens, strict=True)
        )
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=shown_prefix(visible(query.shape[2], causal, window, query.device), sum(map(len, own))),
            dropout_p=options.get("dropout") or 0.0,
            scale=options.get("scaling"),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, dim=1)
