"""Rotary position embedding and attention of a pack: one compiled kernel where it can be, else one after the other.

Shapes: T tokens of the pack, H query heads, K key and value heads, E head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from burnish.ops.attention import packed_attention
from burnish.ops.kernels import fitting_kernel
from burnish.ops.native import kernels
from burnish.ops.prefix_attention import Chosen, packed_prefix_attention

_ROTARY: dict[str, Callable[..., Callable[..., Any] | None]] = {"cuda": partial(fitting_kernel, "rotary", "rotary")}
"""By device: finds the kernel that turns queries and keys like these; it knows its gradient."""


class Setting(NamedTuple):
    """What holds for all heads.

    Attributes:
        lengths: Length of every row of the pack; their sum is T.
        width: E.
        scale: Factor on the scores.
        causal: Whether a token sees only itself and earlier ones.
        window: A token sees those less than this many positions away; None for all.
    """

    lengths: tuple[int, ...]
    width: int
    scale: float
    causal: bool = True
    window: int | None = None


def rotary_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cosine: Tensor,
    sine: Tensor,
    setting: Setting,
    *,
    prefix_key: Tensor | None = None,
    prefix_value: Tensor | None = None,
    prefix_chosen: Chosen | None = None,
) -> Tensor:
    """Attention within the rows of a pack, queries and keys turned by their positions (Su et al., 2021, equation 34).

    Query and key may be overwritten: nobody else may hold them.

    Args:
        query: [T, H E], as its projection gives it.
        key: [T, K E].
        value: [T, K E].
        cosine: [T, E] of every position's angles, the halves alike.
        sine: [T, E].
        setting: Rows, width, scale and mask.
        prefix_key: [P, K, E] keys that every query sees; they are not turned.
        prefix_value: Their values.
        prefix_chosen: Which of them the queries of each row see; None for all.

    Returns:
        [T, H E].
    """
    options: dict[str, Any] = {"causal": setting.causal, "scaling": setting.scale, "sliding_window": setting.window}
    q, k, v = (t.view(1, t.shape[0], -1, setting.width).transpose(1, 2) for t in (query, key, value))
    if prefix_key is not None and prefix_value is not None:
        parts = (*_turned(q, k, cosine, sine), v, prefix_key, prefix_value)
        out = packed_prefix_attention(*parts, setting.lengths, chosen=prefix_chosen, **options)
        return out.reshape(query.shape[0], -1)
    heads = query.view(-1, query.shape[1] // setting.width, setting.width)
    if kernels.attention_usable(heads) and kernels.usable(query, key, value, cosine, sine):
        return _RotaryAttention.apply(query, key, value, cosine, sine, setting)
    return packed_attention(*_turned(q, k, cosine, sine), v, setting.lengths, **options).reshape(query.shape[0], -1)


def _turned(query: Tensor, key: Tensor, cosine: Tensor, sine: Tensor) -> tuple[Tensor, Tensor]:
    """Both [1, heads, T, E] and turned."""
    device = query.device.type
    kernel = _ROTARY[device](query, key, cosine, sine) if device in _ROTARY else None
    if kernel is not None:
        return kernel(query, key, cosine[None], sine[None])
    return rotated(query, cosine, sine), rotated(key, cosine, sine)


def rotated(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """``x cos + turn(x) sin`` with ``turn(x) = (-x2, x1)`` of the halves, [..., T, E]."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cosine + torch.cat((-second, first), dim=-1) * sine


class _RotaryAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, cosine: Tensor, sine: Tensor, setting: Setting
    ) -> Tensor:
        query, key = (kernels.rotate_(t.contiguous(), cosine, sine, setting.width, 1.0) for t in (query, key))
        q, k, v = _heads((query, key, value), setting.width)
        output, logsum = kernels.attention(q, k, v, setting.lengths, **_options(setting))
        ctx.setting = setting
        # under no_grad nothing is kept; the rotated tensors are the inputs' memory, which nobody else reads
        ctx.save_for_backward(q, k, v, logsum, cosine, sine)
        return output.view(query.shape[0], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *saved, cosine, sine = ctx.saved_tensors
        setting = ctx.setting
        upstream = upstream.contiguous().view_as(saved[0])
        grads = kernels.attention_gradient(upstream, tuple(saved), setting.lengths, **_options(setting))
        query, key, value = (g.view(g.shape[0], -1) for g in grads)
        for turned in (query, key):
            kernels.rotate_(turned, cosine, sine, setting.width, -1.0)
        return query, key, value, None, None, None


def _heads(tensors: Sequence[Tensor], width: int) -> list[Tensor]:
    return [t.contiguous().view(t.shape[0], -1, width) for t in tensors]


def _options(setting: Setting) -> dict[str, Any]:
    return {"causal": setting.causal, "scale": setting.scale, "window": setting.window}
