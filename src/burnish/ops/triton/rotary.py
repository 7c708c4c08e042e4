"""Rotary position embedding of queries and keys, in whatever layout they lie.

Shapes: B batch, T tokens, H query heads, K key heads, E head width, R <= E the width that is rotated.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def rotary(query_BHTE: Tensor, key_BKTE: Tensor, cos_BTR: Tensor, sin_BTR: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate pairs of numbers by the angle of their position (Su et al., 2021, equation 34).

    In the convention of `transformers`' Llama number i is paired with number i + R / 2:

        y_i = x_i cos_i - x_(i + R/2) sin_i,    y_(i + R/2) = x_(i + R/2) cos_(i + R/2) + x_i sin_(i + R/2).

    The gradient is the transposed map: where both halves of cos and sin are equal, the rotation by the negative angle.
    Computed in fp32, rounded once at the end. Numbers from R on pass through (partial rotary). Neither cos nor sin gets
    a gradient.

    Args:
        query_BHTE: Queries, in any memory layout.
        key_BKTE: Keys.
        cos_BTR: Cosines; a batch of 1 serves every row.
        sin_BTR: Sines.

    Returns:
        Both rotated, each in its own format and layout.

    Raises:
        ValueError: Shapes do not fit, or R is odd or above E.
    """
    batch, _, length, width = query_BHTE.shape
    fits = cos_BTR.ndim == 3 and cos_BTR.shape[0] in (1, batch) and cos_BTR.shape[1] == length
    fits = fits and cos_BTR.shape == sin_BTR.shape and cos_BTR.shape[2] <= width and cos_BTR.shape[2] % 2 == 0
    if not fits or key_BKTE.shape[0] != batch or key_BKTE.shape[2:] != query_BHTE.shape[2:]:
        raise ValueError(
            f"queries {tuple(query_BHTE.shape)}, keys {tuple(key_BKTE.shape)}, cos {tuple(cos_BTR.shape)} and sin "
            f"{tuple(sin_BTR.shape)} do not fit: [B, H, T, E], [B, K, T, E], [B or 1, T, R], R even and at most E"
        )
    return _Rotary.apply(query_BHTE, key_BKTE, cos_BTR, sin_BTR)


@triton.jit
def _rotate(
    x_ptr, y_ptr, cos_ptr, sin_ptr, heads, length, half,
    x_batch, x_head, x_token, y_batch, y_head, y_token, cos_batch, cos_token, sin_batch, sin_token,
    TRANSPOSED: tl.constexpr, HEADS: tl.constexpr, HALF: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)  # a program rotates all heads of one token
    row, token = place // length, place % length
    columns = tl.arange(0, HALF)
    inside = columns < half
    cos = cos_ptr + row * cos_batch + token * cos_token + columns
    sin = sin_ptr + row * sin_batch + token * sin_token + columns
    cos_low = tl.load(cos, mask=inside, other=0.0).to(tl.float32)[None, :]
    cos_high = tl.load(cos + half, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_low = tl.load(sin, mask=inside, other=0.0).to(tl.float32)[None, :]
    sin_high = tl.load(sin + half, mask=inside, other=0.0).to(tl.float32)[None, :]
    head = tl.arange(0, HEADS)[:, None].to(tl.int64)
    here = (head < heads) & inside[None, :]
    x = x_ptr + row * x_batch + token * x_token + head * x_head + columns[None, :]
    y = y_ptr + row * y_batch + token * y_token + head * y_head + columns[None, :]
    low = tl.load(x, mask=here, other=0.0).to(tl.float32)
    high = tl.load(x + half, mask=here, other=0.0).to(tl.float32)
    if TRANSPOSED:
        new_low = low * cos_low + high * sin_high
        new_high = high * cos_high - low * sin_low
    else:
        new_low = low * cos_low - high * sin_low
        new_high = high * cos_high + low * sin_high
    tl.store(y, new_low.to(y_ptr.dtype.element_ty), mask=here)
    tl.store(y + half, new_high.to(y_ptr.dtype.element_ty), mask=here)


def _rotated(x_BHTE: Tensor, cos: Tensor, sin: Tensor, transposed: bool) -> Tensor:
    """One tensor rotated, or rotated back."""
    x_BHTE = x_BHTE if x_BHTE.stride(-1) == 1 else x_BHTE.contiguous()
    batch, heads, length, _ = x_BHTE.shape
    half = cos.shape[-1] // 2
    output = torch.empty_like(x_BHTE)
    output[..., 2 * half :] = x_BHTE[..., 2 * half :]
    cos_batch, sin_batch = (t.stride(0) if t.shape[0] > 1 else 0 for t in (cos, sin))
    with torch.cuda.device_of(x_BHTE):
        if x_BHTE.numel() and half:
            _rotate[(batch * length,)](
                x_BHTE, output, cos, sin, heads, length, half,
                *x_BHTE.stride()[:3], *output.stride()[:3], cos_batch, cos.stride(1), sin_batch, sin.stride(1),
                TRANSPOSED=transposed, HEADS=triton.next_power_of_2(heads), HALF=triton.next_power_of_2(half),
            )  # fmt: skip
    return output


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = (t if t.stride(-1) == 1 else t.contiguous() for t in (cos, sin))
        ctx.save_for_backward(cos, sin)
        return _rotated(query, cos, sin, False), _rotated(key, cos, sin, False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, query: Tensor, key: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        needs_query, needs_key = ctx.needs_input_grad[:2]
        return (
            _rotated(query, cos, sin, True) if needs_query else None,
            _rotated(key, cos, sin, True) if needs_key else None,
            None,
            None,
        )
