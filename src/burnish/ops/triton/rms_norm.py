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
    return _RMSNorm.apply(x, weight_D, eps, offset)


def forward(
    x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """``s = x + delta``, rounded to the format of x (x itself without a delta), and ``rms_norm`` of it; no gradient.

    Returns:
        s and its norm, [N, D], and r [N] in fp32.

    Raises:
        ValueError: The weight does not fit, or D is above 65,536.
    """
    rows, width = x_ND.shape
    if weight_D.shape != (width,) or width > WIDEST:
        raise ValueError(
            f"a norm of rows {tuple(x_ND.shape)} needs a weight [D], D <= {WIDEST}, not {tuple(weight_D.shape)}"
        )
    x_ND, weight_D = x_ND.contiguous(), weight_D.contiguous()
    total_ND = torch.empty_like(x_ND) if delta_ND is not None else x_ND
    delta_ND = delta_ND.contiguous() if delta_ND is not None else x_ND  # without one it is not read
    dtype = x_ND.dtype if offset else torch.promote_types(x_ND.dtype, weight_D.dtype)
    output_ND = torch.empty_like(x_ND, dtype=dtype)
    root_N = torch.empty(rows, dtype=torch.float32, device=x_ND.device)
    with torch.cuda.device_of(x_ND):
        if rows:
            _forward[(rows,)](
                x_ND, delta_ND, weight_D, total_ND, output_ND, root_N, width, eps, offset,
                ADDED=total_ND is not x_ND, ROUND=not offset, BLOCK=triton.next_power_of_2(width),
                num_warps=_warps(width),
            )  # fmt: skip
    return total_ND, output_ND, root_N


def gradient(
    upstream_ND: Tensor,
    total_ND: Tensor,
    weight_D: Tensor,
    root_N: Tensor,
    through_ND: Tensor | None = None,
    offset: float = 0.0,
    needs_weight: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``forward``'s s and, where it is needed, of the weight, from what it gave.

    ``through``, the gradient that reaches s by other ways, is added before the gradient of s is rounded.
    """
    rows, width = total_ND.shape
    # Without a weight to sum for, a program per row; with one, few programs, each with a sum of its own.
    share = triton.cdiv(rows, PROGRAMS) if needs_weight else 1
    programs = triton.cdiv(rows, max(share, 1))
    total_ND, weight_D, upstream_ND = total_ND.contiguous(), weight_D.contiguous(), upstream_ND.contiguous()
    dx_ND = torch.empty_like(total_ND)
    dw = torch.empty(programs if needs_weight else 1, width, dtype=torch.float32, device=dx_ND.device)
    passed_ND = through_ND.contiguous() if through_ND is not None else total_ND  # without one it is not read
    with torch.cuda.device_of(dx_ND):
        if rows:
            _backward[(programs,)](
                total_ND, weight_D, root_N, upstream_ND, passed_ND, dx_ND, dw, rows, width, offset, share,
                ROUND=not offset, THROUGH=through_ND is not None, NEEDS_WEIGHT=needs_weight,
                BLOCK=triton.next_power_of_2(width), num_warps=_warps(width),
            )  # fmt: skip
    return dx_ND, dw.sum(0).to(weight_D.dtype) if needs_weight else None


@triton.jit
def _forward(
    x_ptr, delta_ptr, w_ptr, total_ptr, y_ptr, r_ptr, width, eps, offset,
    ADDED: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_ptr + row * width + columns, mask=inside, other=0.0)
    if ADDED:
        delta = tl.load(delta_ptr + row * width + columns, mask=inside, other=0.0)
        x = (x.to(tl.float32) + delta.to(tl.float32)).to(x.dtype)
        tl.store(total_ptr + row * width + columns, x, mask=inside)
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
    x_ptr, w_ptr, r_ptr, dy_ptr, through_ptr, dx_ptr, dw_ptr, rows, width, offset, share,
    ROUND: tl.constexpr, THROUGH: tl.constexpr, NEEDS_WEIGHT: tl.constexpr, BLOCK: tl.constexpr,
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
        if THROUGH:
            dx += tl.load(through_ptr + row * width + columns, mask=inside, other=0.0).to(tl.float32)
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
        flat_ND, output, root_N = forward(x.reshape(-1, x.shape[-1]), None, weight, eps, offset)
        ctx.offset = offset
        ctx.save_for_backward(flat_ND, weight, root_N)
        return output.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        flat_ND, weight, root_N = ctx.saved_tensors
        needs_weight = ctx.needs_input_grad[1]
        dx, dw = gradient(upstream.reshape(flat_ND.shape), flat_ND, weight, root_N, None, ctx.offset, needs_weight)
        return dx.view(upstream.shape), dw, None, None


def _warps(width: int) -> int:
    """A warp for every 256 numbers of a row, from 1 to 16."""
    return min(16, max(1, triton.next_power_of_2(width) // 256))
