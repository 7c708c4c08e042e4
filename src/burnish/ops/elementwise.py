"""The element by element parts of fused layers, forward and gradient apart, for autograd functions to call.

Each goes one of three ways: a compiled kernel on a processor, a Triton kernel on a GPU, or plain PyTorch, which is what
the other two are tested against. Shapes: N rows, D width, F inner width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.kernels import fitting_kernel
from burnish.ops.native import kernels

_Kernel = Callable[..., Any]


def rms_norm(
    x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``s = x + delta``, its norm, and 1 / rms [N] in fp32."""
    kernel = _kernel("rms_norm", x_ND, weight_D)
    if kernel is not None:
        delta_ND = delta_ND.contiguous() if delta_ND is not None else None
        return kernel(x_ND.contiguous(), delta_ND, weight_D, eps, offset)
    total = x_ND if delta_ND is None else x_ND + delta_ND
    rstd = torch.rsqrt(total.to(wide(total)).pow(2).mean(-1) + eps)
    return total, rms_norm_again(total, weight_D, rstd, eps, offset), rstd


def rms_norm_again(total_ND: Tensor, weight_D: Tensor, rstd_N: Tensor, eps: float, offset: float) -> Tensor:
    """The norm of ``total`` as ``rms_norm`` gave it, to the bit."""
    kernel = _kernel("rms_norm", total_ND, weight_D)
    if kernel is not None:
        return kernel(total_ND, None, weight_D, eps, offset)[1]
    normed = (total_ND.to(wide(total_ND)) * rstd_N[:, None]).to(total_ND.dtype)
    return normed * (weight_D + offset if offset else weight_D)


def rms_norm_gradient(
    upstream_ND: Tensor,
    total_ND: Tensor,
    weight_D: Tensor,
    rstd_N: Tensor,
    through_ND: Tensor | None,
    offset: float,
    needs_weight: bool,
) -> tuple[Tensor, Tensor | None]:
    """Gradients of ``s`` and, where it is needed, of the weight.

    ``rstd (g - n mean(g n))`` with ``g = dy (offset + w)`` and ``n = s rstd``, to which ``through`` is added; and
    ``sum_n dy n``, summed in fp32.
    """
    through_ND = through_ND.contiguous() if through_ND is not None else None
    kernel = _kernel("rms_norm_gradient", total_ND, weight_D)
    if kernel is not None:
        return kernel(upstream_ND, total_ND, weight_D, rstd_N, through_ND, offset, needs_weight)
    dtype = wide(total_ND)
    g, n = upstream_ND.to(dtype) * (weight_D.to(dtype) + offset), total_ND.to(dtype) * rstd_N[:, None]
    grad = rstd_N[:, None] * (g - n * (g * n).mean(-1, keepdim=True))
    grad = (grad if through_ND is None else grad + through_ND.to(dtype)).to(total_ND.dtype)
    return grad, _norm_weight_gradient(upstream_ND, total_ND, weight_D, rstd_N) if needs_weight else None


def swiglu(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    kernel = _kernel("swiglu", gate_NF, up_NF) if gate_NF.stride() == up_NF.stride() else None
    return kernel(gate_NF, up_NF) if kernel is not None else F.silu(gate_NF) * up_NF


def swiglu_gradient(upstream_NF: Tensor, gate_NF: Tensor, up_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    dense = gate_NF.is_contiguous() and up_NF.is_contiguous()
    kernel = _kernel("swiglu_gradient", gate_NF, up_NF, upstream_NF) if dense else None
    if kernel is not None:
        return kernel(upstream_NF.contiguous(), gate_NF, up_NF)
    dtype = wide(gate_NF)
    g, u, d = gate_NF.to(dtype), up_NF.to(dtype), upstream_NF.to(dtype)
    s = torch.sigmoid(g)
    return (d * u * s * (1 + g * (1 - s))).to(gate_NF.dtype), (d * g * s).to(up_NF.dtype)


def wide(tensor: Tensor) -> torch.dtype:
    """The format in which sums over this tensor are taken."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


def _norm_weight_gradient(upstream: Tensor, total: Tensor, weight: Tensor, rstd: Tensor) -> Tensor:
    dtype = wide(total)
    normed = (total.to(dtype) * rstd[:, None]).to(total.dtype)
    return (upstream.to(dtype) * normed.to(dtype)).sum(0).to(weight.dtype)


def _compiled_norm_gradient(
    upstream: Tensor, total: Tensor, weight: Tensor, rstd: Tensor, *rest: Any
) -> tuple[Tensor, Tensor | None]:
    *through_and_offset, needs_weight = rest
    grad = kernels.rms_norm_gradient(upstream, total, weight, rstd, *through_and_offset)
    return grad, _norm_weight_gradient(upstream, total, weight, rstd) if needs_weight else None


_COMPILED: dict[str, _Kernel] = {
    "rms_norm": kernels.rms_norm,
    "rms_norm_gradient": _compiled_norm_gradient,
    "swiglu": kernels.swiglu,
    "swiglu_gradient": kernels.swiglu_gradient,
}

_TRITON = {
    "rms_norm": ("rms_norm", "forward"),
    "rms_norm_gradient": ("rms_norm", "gradient"),
    "swiglu": ("swiglu", "forward"),
    "swiglu_gradient": ("swiglu", "gradient"),
}
"""File of ``burnish.ops.triton`` and function in it; imported when one is first asked for."""


def _compiled(name: str, *tensors: Tensor) -> _Kernel | None:
    return _COMPILED[name] if kernels.usable(*tensors) else None


def _triton(name: str, *tensors: Tensor) -> _Kernel | None:
    return fitting_kernel(*_TRITON[name], *tensors)


_KERNELS: dict[str, Callable[..., _Kernel | None]] = {"cpu": _compiled, "cuda": _triton}
"""By device: finds the kernel of a name for tensors like these; without one the plain way is taken."""


def _kernel(name: str, *tensors: Tensor) -> _Kernel | None:
    device = tensors[0].device.type
    return _KERNELS[device](name, *tensors) if device in _KERNELS else None
