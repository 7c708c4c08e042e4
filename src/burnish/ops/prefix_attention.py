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


def by_row(prefix: Tensor) -> Tensor:
    """A prefix for all rows [P, K, E], or one for each [B, P, K, E], as keys of attention, [1 or B, K, P, E]."""
    return (prefix if prefix.dim() == 4 else prefix[None]).transpose(1, 2)


def packed_prefix_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor,
    prefix_value: Tensor,
    lengths: tuple[int, ...],
    *,
    causal: bool,
    sliding_window: int | None = None,
    **options: Any,
) -> Tensor:
    """``packed_attention`` where every segment's tokens see the prefix too; [1, T, H, E'].

    Args:
        query: [1, H, T, E].
        key: [1, K, T, E].
        value: [1, K, T, E'].
        prefix_key: [P, K, E] for all segments, or [S, P, K, E].
        prefix_value: The same with E'.
        lengths: Lengths of the segments.
        causal: Whether a token sees only itself and earlier ones.
        sliding_window: A token sees those tokens less than this many positions away, and the prefix from anywhere.
        **options: ``scaling``, ``dropout``, ``softcap``.
    """
    front_key, front_value = (by_row(p).to(key.dtype) for p in (prefix_key, prefix_value))
    if sliding_window is not None and sliding_window < max(lengths):
        parts = (query, key, value)
        return _windowed(parts, (front_key, front_value), lengths, causal, sliding_window, options)
    count, own = front_key.shape[2], front_key.shape[0] > 1
    places, real = _places(lengths, count, own, query.device)
    keys, values = (
        torch.cat([front.transpose(0, 1).flatten(1, 2)[None], tokens], dim=2).index_select(2, places)
        for front, tokens in ((front_key, key), (front_value, value))
    )
    ahead = front_key.shape[0] * count
    queries = F.pad(query, (0, 0, ahead, 0)).index_select(2, places)
    longer = tuple(n + count for n in lengths)
    return packed_attention(queries, keys, values, longer, causal=causal, **options).index_select(1, real)


def row_prefixes(key: Tensor, value: Tensor, prefix_key: Tensor, prefix_value: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [B, K, P + T, E] of padded rows, prefixes in front."""
    fronts = (by_row(p).to(key.dtype).expand(key.shape[0], -1, -1, -1) for p in (prefix_key, prefix_value))
    front_key, front_value = fronts
    return torch.cat([front_key, key], dim=2), torch.cat([front_value, value], dim=2)


def shown_prefix(mask: Tensor | None, count: int) -> Tensor | None:
    """A mask [..., T] grown by P columns that every query sees; of a float mask or a bias, zeros."""
    if mask is None:
        return None
    return F.pad(mask, (count, 0), value=True if mask.dtype == torch.bool else 0.0)


@lru_cache(maxsize=8)  # all layers of a forward and a backward pass ask for the same places
def _places(lengths: tuple[int, ...], count: int, own: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where each place of the longer pack comes from in [prefixes, tokens], and where its tokens are."""
    ahead = count * (len(lengths) if own else 1)
    made, start = [], ahead
    for number, length in enumerate(lengths):
        first = number * count if own else 0
        made += [torch.arange(first, first + count), torch.arange(start, start + length)]
        start += length
    places = torch.cat(made)
    return places.to(device), (places >= ahead).nonzero().flatten().to(device)


def _windowed(
    parts: tuple[Tensor, Tensor, Tensor],
    fronts: tuple[Tensor, Tensor],
    lengths: Sequence[int],
    causal: bool,
    window: int,
    options: dict[str, Any],
) -> Tensor:
    """Row by row with a mask: a window over tokens does not slide over the prefix."""
    if options.get("softcap") is not None:
        raise ValueError("capped scores under a sliding window take no prefix")
    outputs = []
    count = fronts[0].shape[2]
    for number, (query, key, value) in enumerate(zip(*(t.split(list(lengths), dim=2) for t in parts), strict=True)):
        front_key, front_value = (f[number : number + 1] if f.shape[0] > 1 else f for f in fronts)
        mask = shown_prefix(visible(query.shape[2], causal, window, query.device), count)
        out = F.scaled_dot_product_attention(
            query,
            torch.cat([front_key, key], dim=2),
            torch.cat([front_value, value], dim=2),
            attn_mask=mask,
            dropout_p=options.get("dropout") or 0.0,
            scale=options.get("scaling"),
            enable_gqa=key.shape[1] != query.shape[1],
        )
        outputs.append(out.transpose(1, 2))
    return torch.cat(outputs, dim=1)
