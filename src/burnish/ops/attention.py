"""Attention over packed rows: every row sees itself only, and gets the values that it gets alone.

Shapes: B batch, T tokens of the pack, n tokens of one row, H query heads, K key and value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.blocked_attention import blocked_attention
from burnish.ops.gpu_attention import gpu_attention
from burnish.ops.native import kernels


def packed_attention(
    query_BHTE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    lengths: Sequence[int],
    *,
    causal: bool,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Block-diagonal attention: ``softmax(scaling Q K^T + M) V`` for each row of the pack by itself.

    No [T, T] mask is made: a row takes the kernel that it would take alone, so time and memory are the sum over rows of
    ``n^2`` and not ``T^2``.

    Args:
        query_BHTE: Queries, [1, H, T, E].
        key_BKTE: Keys, [1, K, T, E]; K divides H (grouped-query attention).
        value_BKTE: Values, [1, K, T, E'].
        lengths: Length of every row, in order; their sum is T.
        causal: Whether a token sees only itself and earlier ones.
        scaling: Factor on the scores; ``E ** -0.5`` if None.
        dropout: Probability with which an attention weight is dropped.
        sliding_window: A token sees those less than this many positions away.
        softcap: Scores become ``c tanh(scores / c)``, as in Gemma 2.

    Returns:
        [1, T, H, E'], the layout in which `transformers` attention functions answer.

    Raises:
        ValueError: The lengths do not add up to T, or the batch is not 1.
    """
    if query_BHTE.shape[0] != 1 or sum(lengths) != query_BHTE.shape[2] or key_BKTE.shape[2] != query_BHTE.shape[2]:
        raise ValueError(
            f"a pack of lengths {tuple(lengths)} needs tensors [1, heads, {sum(lengths)}, width], "
            f"not {tuple(query_BHTE.shape)} and {tuple(key_BKTE.shape)}"
        )
    kernel = gpu_attention(query_BHTE, value_BKTE, dropout=dropout, softcap=softcap)
    if kernel is not None:
        settings = {"scaling": scaling, "sliding_window": sliding_window, "softcap": softcap}
        return kernel(query_BHTE, key_BKTE, value_BKTE, lengths, causal=causal, **settings)
    if not dropout and softcap is None and kernels.attention_usable(query_BHTE) and _same_heads(query_BHTE, value_BKTE):
        scale = query_BHTE.shape[-1] ** -0.5 if scaling is None else scaling
        options = {"causal": causal, "scale": scale, "window": sliding_window}
        return _compiled(query_BHTE, key_BKTE, value_BKTE, tuple(lengths), options)
    if not dropout and softcap is None and _blocks_are_faster(query_BHTE, lengths):
        query, key, value = query_BHTE[0], key_BKTE[0], value_BKTE[0]
        options = {"scaling": scaling, "sliding_window": sliding_window}
        return blocked_attention(query, key, value, lengths, causal=causal, **options)[None]  # type: ignore[arg-type]
    if key_BKTE.shape[1] != query_BHTE.shape[1] and not _groups_in_kernel(query_BHTE, sliding_window):
        repeats = query_BHTE.shape[1] // key_BKTE.shape[1]
        key_BKTE = key_BKTE.repeat_interleave(repeats, dim=1)
        value_BKTE = value_BKTE.repeat_interleave(repeats, dim=1)
    rows = zip(
        query_BHTE.split(list(lengths), dim=2),
        key_BKTE.split(list(lengths), dim=2),
        value_BKTE.split(list(lengths), dim=2),
        strict=True,
    )
    outputs = [
        row_attention(
            q, k, v, causal=causal, scaling=scaling, dropout=dropout, sliding_window=sliding_window, softcap=softcap
        ).transpose(1, 2)
        for q, k, v in rows
    ]
    return torch.cat(outputs, dim=1)


def _compiled(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], options: dict[str, Any]) -> Tensor:
    """The compiled kernel, which takes tensors as they lie as long as a head's numbers are neighbours."""
    heads = [t[0].transpose(0, 1) for t in (query, key, value)]
    return CompiledAttention.apply(*(h if h.stride(-1) == 1 else h.contiguous() for h in heads), lengths, options)[None]


class CompiledAttention(torch.autograd.Function):
    """The compiled kernel with its gradient: queries [T, H, E], keys and values [T, K, E], lengths, its options."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], options: dict[str, Any]
    ) -> Tensor:
        output, logsum = kernels.attention(query, key, value, lengths, **options)
        ctx.lengths, ctx.options = lengths, options
        ctx.save_for_backward(query, key, value, logsum)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        grads = kernels.attention_gradient(upstream.contiguous(), ctx.saved_tensors, ctx.lengths, **ctx.options)
        return *grads, None, None


def row_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Attention within one row, [1, H, n, E']; arguments as in ``packed_attention``."""
    length = query.shape[2]
    windowed = sliding_window is not None and sliding_window < length
    mask = visible(length, causal, sliding_window, query.device) if windowed or softcap is not None else None
    if softcap is not None:
        return capped_attention(query, key, value, mask, scaling=scaling, dropout=dropout, softcap=softcap)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        dropout_p=dropout,
        is_causal=causal and mask is None,
        scale=scaling,
        enable_gqa=key.shape[1] != query.shape[1],
    )


def capped_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    softcap: float,
    scaling: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention with capped scores, which the fused kernels lack: ``softmax(c tanh(s Q K^T / c) + M) V`` in fp32.

    Args:
        query: [B, H, Q, E].
        key: [B, K, S, E]; K divides H.
        value: [B, K, S, E'].
        mask: True where a query sees a key, broadcastable to [B, H, Q, S]; a float mask is added; None shows all.
        softcap: The cap c.
        scaling: Factor s on the scores; ``E ** -0.5`` if None.
        dropout: Probability with which an attention weight is dropped.
    """
    repeats = query.shape[1] // key.shape[1]
    if repeats > 1:
        key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.tanh(query @ key.transpose(-1, -2) * (scale / softcap)) * softcap
    if mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, lowest) if mask.dtype == torch.bool else scores + mask
    accumulate = torch.float64 if scores.dtype == torch.float64 else torch.float32
    weights = torch.softmax(scores, dim=-1, dtype=accumulate).to(value.dtype)
    return F.dropout(weights, dropout, training=dropout > 0) @ value


def visible(length: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """True where query i sees key j: ``j <= i`` if causal, ``|i - j| < window``; None if every pair is visible."""
    mask = torch.ones(length, length, dtype=torch.bool, device=device)
    if causal:
        mask = mask.tril()
    if window is not None:
        mask = mask.triu(1 - window) if causal else mask.triu(1 - window).tril(window - 1)
    return mask


def _blocks_are_faster(query: Tensor, lengths: Sequence[int]) -> bool:
    """Whether products over blocks beat the fused kernel: measured for bf16 on a processor, see docs/performance.md."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    return (torch.is_grad_enabled() and query.requires_grad) or query.shape[2] >= 128 * len(lengths)


def _same_heads(query: Tensor, value: Tensor) -> bool:
    """Whether values are of the queries' format and width, as the compiled kernel takes them."""
    return value.dtype == query.dtype and value.shape[-1] == query.shape[-1]


def _groups_in_kernel(query: Tensor, sliding_window: int | None) -> bool:
    """Whether the device's fused kernels take fewer key heads than query heads; the slow plain path always does."""
    if query.device.type == "cpu":
        return True
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.device.type == "cuda" and half and query.shape[-1] <= 256 and sliding_window is None
