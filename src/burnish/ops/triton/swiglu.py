"""The gate of a gated feed-forward layer: activation and product in one pass, and recomputed in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

ACTIVATIONS = {"silu": 0, "gelu_tanh": 1}
"""Names of the activations, and the number by which the kernels know them."""

BLOCK = 1024


def gated(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """``act(gate) up``, element by element (Shazeer, 2020, equation 5: SwiGLU and GEGLU).

    ``silu(g) = g s`` with ``s = sigmoid(g)`` has the slope ``s (1 + g (1 - s))``. ``gelu_tanh(g) = g (1 + t) / 2`` with
    ``t = tanh(k (g + a g^3))``, ``k = sqrt(2 / pi)``, ``a = 0.044715``, has the slope
    ``(1 + t) / 2 + g (1 - t^2) k (1 + 3 a g^2) / 2``. Both in fp32, rounded once at the end. Only ``gate`` and ``up``
    are kept for the backward pass.

    Args:
        gate: Any shape.
        up: The same shape and format.
        activation: ``silu`` (Llama, Qwen, Mistral) or ``gelu_tanh`` (Gemma).

    Raises:
        ValueError: The shapes or formats differ, or the activation is unknown.
    """
    if gate.shape != up.shape or gate.dtype != up.dtype:
        raise ValueError(
            f"gate {tuple(gate.shape)} {gate.dtype} and up {tuple(up.shape)} {up.dtype} must be of one shape and format"
        )
    if activation not in ACTIVATIONS:
        raise ValueError(f"no kernel for the activation `{activation}`; there are {', '.join(ACTIVATIONS)}")
    return _Gated.apply(gate, up, activation)


def forward(gate: Tensor, up: Tensor, activation: str = "silu") -> Tensor:
    """``act(gate) up``, without a gradient; the same shape and format for both, in any layout."""
    gate, up = gate.contiguous(), up.contiguous()
    output = torch.empty_like(gate)
    with torch.cuda.device_of(gate):
        if gate.numel():
            _forward[_grid(gate)](gate, up, output, gate.numel(), KIND=ACTIVATIONS[activation], BLOCK=BLOCK)
    return output


def gradient(upstream: Tensor, gate: Tensor, up: Tensor, activation: str = "silu") -> tuple[Tensor, Tensor]:
    """Gradients of gate and up, from that of ``forward``'s result."""
    upstream, gate, up = upstream.contiguous(), gate.contiguous(), up.contiguous()
    dgate, dup = torch.empty_like(gate), torch.empty_like(up)
    with torch.cuda.device_of(gate):
        if gate.numel():
            _backward[_grid(gate)](
                gate, up, upstream, dgate, dup, gate.numel(), KIND=ACTIVATIONS[activation], BLOCK=BLOCK
            )
    return dgate, dup


@triton.jit
def _activated(g, KIND: tl.constexpr):
    """The activation and its slope, in fp32."""
    if KIND == 0:
        s = tl.sigmoid(g)
        value = g * s
        slope = s * (1.0 + g * (1.0 - s))
    else:
        k: tl.constexpr = 0.7978845608028654
        a: tl.constexpr = 0.044715
        t = 2.0 * tl.sigmoid(2.0 * k * (g + a * g * g * g)) - 1.0
        value = 0.5 * g * (1.0 + t)
        slope = 0.5 * (1.0 + t) + 0.5 * g * (1.0 - t * t) * k * (1.0 + 3.0 * a * g * g)
    return value, slope


@triton.jit
def _forward(gate_ptr, up_ptr, out_ptr, count, KIND: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    g = tl.load(gate_ptr + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up_ptr + places, mask=inside, other=0.0).to(tl.float32)
    value, _slope = _activated(g, KIND)
    tl.store(out_ptr + places, (value * u).to(out_ptr.dtype.element_ty), mask=inside)


@triton.jit
def _backward(gate_ptr, up_ptr, dy_ptr, dgate_ptr, dup_ptr, count, KIND: tl.constexpr, BLOCK: tl.constexpr):
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = places < count
    g = tl.load(gate_ptr + places, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up_ptr + places, mask=inside, other=0.0).to(tl.float32)
    dy = tl.load(dy_ptr + places, mask=inside, other=0.0).to(tl.float32)
    value, slope = _activated(g, KIND)
    tl.store(dgate_ptr + places, (dy * u * slope).to(dgate_ptr.dtype.element_ty), mask=inside)
    tl.store(dup_ptr + places, (dy * value).to(dup_ptr.dtype.element_ty), mask=inside)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, activation: str) -> Tensor:
        ctx.activation = activation
        ctx.save_for_backward(gate, up)
        return forward(gate, up, activation)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gate, up = ctx.saved_tensors
        return *gradient(upstream, gate, up, ctx.activation), None


def _grid(tensor: Tensor) -> tuple[int]:
    return (triton.cdiv(tensor.numel(), BLOCK),)
