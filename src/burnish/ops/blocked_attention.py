"""Attention of packed rows on a processor, as plain matrix products over blocks of queries.

The fused attention kernels of PyTorch run bf16 on a processor several times slower than its matrix products do. Here a
block of queries, of one row or of several short ones, meets the keys that any of them may see, in two products with a
softmax between. Nothing of size [T, T] is made or kept: the backward pass makes the weights of a block again.

Shapes: T tokens of the pack, H query heads, K key and value heads, G = H / K, E head width, b queries of a block, s the
keys that they may see.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

BLOCK = 128
"""Queries of a block: large enough for the products, small enough that a causal block skips most later keys."""


class Block(NamedTuple):
    """Queries ``begin:end`` of the pack, the keys ``first:last`` that they may see, and what is added to scores."""

    begin: int
    end: int
    first: int
    last: int
    mask: Tensor  # [b, s], 0 where a query sees a key and the lowest number where not


@lru_cache(maxsize=4)  # all layers of a forward and a backward pass ask for the same blocks
def blocks(lengths: tuple[int, ...], causal: bool, window: int | None, dtype: torch.dtype) -> tuple[Block, ...]:
    """The blocks of a pack with their masks."""
    bounds = torch.tensor([0, *lengths]).cumsum(0)
    total = int(bounds[-1])
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    starts, ends = bounds[:-1][rows], bounds[1:][rows]
    made = []
    for begin in range(0, total, BLOCK):
        end = min(begin + BLOCK, total)
        first, last = int(starts[begin]), end if causal else int(ends[end - 1])
        if window is not None:
            first = max(first, begin - window + 1)
            last = min(last, end + window - 1)
        query, key = torch.arange(begin, end)[:, None], torch.arange(first, last)[None]
        seen = rows[begin:end, None] == rows[None, first:last]
        if causal:
            seen &= key <= query
        if window is not None:
            seen &= (query - key).abs() < window
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)
        made.append(Block(begin, end, first, last, mask))
    return tuple(made)


def blocked_attention(
    query_HTE: Tensor,
    key_KTE: Tensor,
    value_KTE: Tensor,
    lengths: Sequence[int],
    *,
    causal: bool,
    scaling: float | None = None,
    sliding_window: int | None = None,
) -> Tensor:
    """``softmax(scaling Q K^T + M) V`` for each row of the pack by itself, [T, H, E'].

    Products and scores are in the format of the arguments, the softmax is taken in fp32 (fp64 for fp64).

    Args:
        query_HTE: Queries.
        key_KTE: Keys; K divides H.
        value_KTE: Values, [K, T, E'].
        lengths: Length of every row, in order; their sum is T.
        causal: Whether a token sees only itself and earlier ones.
        scaling: Factor on the scores; ``E ** -0.5`` if None.
        sliding_window: A token sees those less than this many positions away.
    """
    scale = query_HTE.shape[-1] ** -0.5 if scaling is None else scaling
    parts = blocks(tuple(lengths), causal, sliding_window, query_HTE.dtype)
    return _Blocked.apply(query_HTE * scale, key_KTE, value_KTE, parts)


def _grouped(tensor_HbE: Tensor, groups: int) -> Tensor:
    """[H, b, E] to [K, G b, E]: the queries that share a key head stand below each other."""
    heads, length, width = tensor_HbE.shape
    return tensor_HbE.reshape(heads // groups, groups * length, width)


def _weights(query: Tensor, key: Tensor, part: Block, groups: int) -> Tensor:
    """Attention weights of a block, [K, G b, s]."""
    scores = torch.bmm(query, key.transpose(1, 2))
    heads, _, seen = scores.shape
    scores.view(heads, groups, part.end - part.begin, seen).add_(part.mask)
    return torch.softmax(scores, dim=-1)


class _Blocked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, parts: tuple[Block, ...]) -> Tensor:
        heads, length, _ = query.shape
        groups = heads // key.shape[0]
        output = query.new_empty(length, heads, value.shape[-1])
        for part in parts:
            own, seen = slice(part.begin, part.end), slice(part.first, part.last)
            weights = _weights(_grouped(query[:, own], groups), key[:, seen], part, groups)
            result = torch.bmm(weights, value[:, seen])
            output[own] = result.view(heads, part.end - part.begin, -1).transpose(0, 1)
        ctx.parts = parts
        ctx.save_for_backward(query, key, value)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value = ctx.saved_tensors
        heads = query.shape[0]
        groups = heads // key.shape[0]
        # a key is seen by several blocks, so its sums are held in fp32
        sums = torch.float64 if query.dtype == torch.float64 else torch.float32
        grad_query = torch.empty_like(query)
        grad_key, grad_value = torch.zeros_like(key, dtype=sums), torch.zeros_like(value, dtype=sums)
        for part in ctx.parts:
            own, seen = slice(part.begin, part.end), slice(part.first, part.last)
            queries = _grouped(query[:, own], groups)
            weights = _weights(queries, key[:, seen], part, groups)
            grad = _grouped(upstream[own].transpose(0, 1), groups)
            grad_value[:, seen] += torch.bmm(weights.transpose(1, 2), grad)
            inner = torch.bmm(grad, value[:, seen].transpose(1, 2))
            scores = torch._softmax_backward_data(inner, weights, -1, weights.dtype)
            grad_query[:, own] = torch.bmm(scores, key[:, seen]).view(heads, part.end - part.begin, -1)
            grad_key[:, seen] += torch.bmm(scores.transpose(1, 2), queries)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None
