"""What the layers of BERT and its relatives are made of: attention, GELU, and norms behind a residual.

Everywhere dropout is a function of a seed and the place of a number, so its masks are not kept but made again.

Shapes: N positions, D width, F inner width, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.attention import CompiledAttention
from burnish.ops.native import kernels
from burnish.ops.native.kernels import Drop, new_drop
from burnish.ops.projections import Constants, Maps, Projection, constants_of, project, unflatten


def usable(hidden_ND: Tensor, width: int) -> bool:
    """Whether the compiled kernels take hidden states like these, in heads of this width."""
    return kernels.usable(hidden_ND) and kernels.attention_usable(hidden_ND.view(hidden_ND.shape[0], -1, width))


def head_attention(
    query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], width: int, dropout: float, *, causal: bool
) -> Tensor:
    """``dropout(softmax(Q K^T / sqrt(E))) V`` within the rows of a pack, [N, H E]; ``usable`` was asked."""
    heads = [t.view(t.shape[0], -1, width) for t in (query, key, value)]
    options = {"causal": causal, "scale": width**-0.5, "window": None, "drop": new_drop(dropout)}
    return CompiledAttention.apply(*heads, tuple(lengths), options).view_as(query)


def norm_after(
    x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float, dropout: float
) -> Tensor:
    """``LayerNorm(residual + dropout(x))`` (Vaswani et al., 2017, section 5.4; Ba et al., 2016, equation 4)."""
    return sum_and_norm(x_ND, residual_ND, weight_D, bias_D, eps, dropout)[1]


def sum_and_norm(
    x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float, dropout: float
) -> tuple[Tensor, Tensor]:
    """``s = residual + dropout(x)`` and ``LayerNorm(s)``."""
    return _SumAndNorm.apply(x_ND, residual_ND, weight_D, bias_D, eps, new_drop(dropout))


def gelu_and_project(x_NF: Tensor, projection: Projection) -> Tensor:
    """The projection of ``x Phi(x)`` (Hendrycks & Gimpel, 2016), kept where more than the map reads it."""
    if projection.reads:
        return project(F.gelu(x_NF), [projection])[0]
    return projection.finish(_GeluAndProject.apply(x_NF, constants_of([projection]), *projection.tensors))


class _SumAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, eps: float, drop: Drop
    ) -> tuple[Tensor, Tensor]:
        scale, shift = weight.to(x.dtype), bias.to(x.dtype)
        total, y, mean, rstd = kernels.layer_norm(x.contiguous(), residual.contiguous(), scale, shift, eps, drop)
        ctx.drop = drop
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, mean, rstd, weight)
        return total, y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, through: Tensor | None, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        total, mean, rstd, weight = ctx.saved_tensors
        upstream = torch.zeros_like(total) if upstream is None else upstream.contiguous()
        through = None if through is None else through.contiguous()
        grads = kernels.layer_norm_gradient(upstream, total, weight.to(total.dtype), mean, rstd, ctx.drop, through)
        of_weight = of_bias = None
        if ctx.needs_input_grad[2] or ctx.needs_input_grad[3]:
            wide = upstream.float()
            of_weight = (wide * (total.float() - mean[:, None]) * rstd[:, None]).sum(0).to(weight.dtype)
            of_bias = wide.sum(0).to(weight.dtype)
        return *grads, of_weight, of_bias, None, None


class _GeluAndProject(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, constants: tuple[Constants, ...], *tensors: Tensor | None) -> Tensor:
        outputs, inner = Maps(unflatten(tensors, constants), x.dtype).forward(gelu(x))
        ctx.constants = constants
        ctx.save_for_backward(x, inner, *tensors)
        return outputs[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, *tensors = ctx.saved_tensors
        maps = Maps(unflatten(tensors, ctx.constants), x.dtype)
        low = maps.low_gradient([upstream])
        inward, again = gelu_gradient_(maps.input_gradient([upstream], low), x)
        return inward, None, *maps.gradients(again, inner, [upstream], low, ctx.needs_input_grad[2:])


def gelu(x: Tensor) -> Tensor:
    """``x Phi(x)``."""
    return kernels.gelu(x) if kernels.usable(x) and x.is_contiguous() else F.gelu(x)


def gelu_gradient_(upstream: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """``dy (Phi(x) + x phi(x))``, perhaps in the place of dy, and ``x Phi(x)`` again."""
    if kernels.usable(x, upstream) and x.is_contiguous() and upstream.is_contiguous():
        return kernels.gelu_gradient_(upstream, x)
    return torch.ops.aten.gelu_backward(upstream, x), F.gelu(x)
