"""Root-mean-square normalisation in one pass over memory each way. Shapes: N rows, D width."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

WIDEST = 65536
"""The widest row that one program holds."""

PROGRAMS = 512
"""Programs of a backward pass that sums the weight's gradient: a few for each multiprocessor of any GPU."""


def rms_norm(x: Tensor, weight_D: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """``y = (x r) (offset + w)`` with ``r = (mean(x^2) + eps)^(-1/2)``, over the last dimension.

    Zhang and Sennrich (2019), equation 4. With ``g = dy (offset + w)`` and ``n = x r`` the gradients are

        dx = r (g - n mean(g n)),    dw = sum over rows of dy n.

    Everything is computed in fp32. As in `transformers`, Llama's form (``offset`` 0) rounds ``x r`` to the format of x
    before the weight is multiplied; Gemma's (``offset`` 1) rounds once, at the end, to the format of x.

    Args:
        x: Any leading shape, [..., D].
        weight_D: Its gradient is computed only if it asks for one.
        eps: Added to the mean square.
        offset: Added to the weight: 0 in Llama, 1 in Gemma.

    Returns:
        [..., D]; the format that x and the weight promote to, that of x where there is an offset.

    Raises:
        ValueError: The weight does not fit, or D is above 65,536.
    """
    if weight_D.shape != x.shape[-1:] or x.shape[-1] > WIDEST:
        raise ValueError(
            f"a norm of rows {tuple(x.shape)} needs a weight [D], D <= {WIDEST}, not {tuple(weight_D.shape)}"
        )
    return _RMSNorm.apply(x, weight_D, eps, offset)


@triton.jit
def _forward(x_ptr, w_ptr, y_ptr, r_ptr, width, eps, offset, ROUND: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0)
    wide = x.to(tl.float32)
    root = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / width + eps)
    tl.store(r_ptr + row, root)
    normal = wide * root
    if ROUND:
        normal = normal.to(x.dtype).to(tl.float32)
    w = tl.load(w_ptr + columns, mask=inside, other=0.0).to(tl.float32) + offset
    tl.store(y_ptr + row * width + columns, (normal * w).to(y_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward(
    x_ptr, w_ptr, r_ptr, dy_ptr, dx_ptr, dw_ptr, rows, width, offset, share,
    ROUND: tl.constexpr, NEEDS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    w = tl.load(w_ptr + columns, mask=inside, other=0.0).to(tl.float32) + offset
    dw = tl.zeros([BLOCK], dtype=tl.float32)
    row = program * share
    end = tl.minimum(row + share, rows)
    while row < end:
        x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0)
        dy = tl.load(dy_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
        root = tl.load(r_ptr + row)
        normal = x.to(tl.float32) * root
        g = dy * w
        dx = root * (g - normal * (tl.sum(g * normal, axis=0) / width))
        tl.store(dx_ptr + row * width + columns, dx.to(dx_ptr.dtype.element_ty), mask=inside)
        if NEEDS_WEIGHT:
            if ROUND:
                normal = normal.to(x.dtype).to(tl.float32)
            dw += dy * normal
        row += 1
    if NEEDS_WEIGHT:
        tl.store(dw_ptr + program * width + columns, dw, mask=inside)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
        flat_ND, weight = x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous()
        rows, width = flat_ND.shape
        dtype = x.dtype if offset else torch.promote_types(x.dtype, weight.dtype)
        output = torch.empty_like(flat_ND, dtype=dtype)
        root_N = torch.empty(rows, dtype=torch.float32, device=x.device)
        with torch.cuda.device_of(x):
            if rows:
                _forward[(rows,)](
                    flat_ND, weight, output, root_N, width, eps, offset,
                    ROUND=not offset, BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
                )  # fmt: skip
        ctx.offset, ctx.shape = offset, x.shape
        ctx.save_for_backward(flat_ND, weight, root_N)
        return output.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        flat_ND, weight, root_N = ctx.saved_tensors
        rows, width = flat_ND.shape
        needs_weight = ctx.needs_input_grad[1]
        # Without a weight to sum for, a program per row; with one, few programs, each with a sum of its own.
        share = triton.cdiv(rows, PROGRAMS) if needs_weight else 1
        programs = triton.cdiv(rows, max(share, 1))
        dx = torch.empty_like(flat_ND)
        dw = torch.empty(programs if needs_weight else 1, width, dtype=torch.float32, device=dx.device)
        with torch.cuda.device_of(dx):
            if rows:
                _backward[(programs,)](
                    flat_ND, weight, root_N, upstream.reshape(rows, width).contiguous(), dx, dw,
                    rows, width, ctx.offset, share,
                    ROUND=not ctx.offset, NEEDS_WEIGHT=needs_weight, BLOCK=triton.next_power_of_2(width),
                    num_warps=_warps(width),
                )  # fmt: skip
        return dx.view(ctx.shape), dw.sum(0).to(weight.dtype) if needs_weight else None, None, None


def _warps(width: int) -> int:
    """A warp for every 256 numbers of a row, from 1 to 16."""
    return min(16, max(1, triton.next_power_of_2(width) // 256))
