"""Linear maps that share an input, with low-rank updates, and with what makes their input fused in front of them.

Autograd keeps the input of every operation. Here a map keeps what its input was made from and makes it again in the
backward pass, the gradients of maps that share an input are summed by the products themselves, and the element by
element parts run in kernels where there are any (`ops/elementwise`).

Shapes: N positions, I inner and O outer width of a map, R rank, F width of a gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.eight_bits import EightBits, Rows, round_rows
from burnish.ops.elementwise import rms_norm, rms_norm_again, rms_norm_gradient, swiglu, swiglu_gradient, wide
from burnish.ops.low_rank import narrow_product, outer_product

Decode = Callable[[torch.dtype], Tensor]


class Constants(NamedTuple):
    """What autograd need not know of a projection."""

    scale: float
    decode: Decode | None
    eight: EightBits | None


@dataclass(frozen=True)
class Projection:
    """``x W^T + b + s (x A^T) B^T``: a map, and the update of LoRA (Hu et al., 2022, equation 3) where A is given.

    Attributes:
        weight: W [O, I].
        bias: b [O], or None.
        A: [R, I], or None for a map without an update.
        B: [O, R].
        scale: s.
        first: What happens to the input before, position by position.
        beside: From the input behind ``first`` and the output to what the output becomes, likewise.
        then: What happens to the output afterwards, likewise. Autograd sees these three apart from the map, and
            ``norm_and_project`` knows the last alone.
        decode: Makes W [O, I] in a format where ``weight`` holds it in another form (weights of 4 bits); it is called
            once in the forward pass and once in the backward pass, and W is given up after each product.
        eight: W in 8 bits, for its products; x and gradients are then rounded to 8 bits too. What A, B and b do stays
            as it is.
    """

    weight: Tensor
    bias: Tensor | None = None
    A: Tensor | None = None
    B: Tensor | None = None
    scale: float = 1.0
    first: Callable[[Tensor], Tensor] | None = None
    beside: Callable[[Tensor, Tensor], Tensor] | None = None
    then: Callable[[Tensor], Tensor] | None = None
    decode: Decode | None = None
    eight: EightBits | None = None

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What autograd is to know of."""
        return (self.weight, self.bias, self.A, self.B)

    @property
    def reads(self) -> bool:
        """Whether anything but the map and its update reads the input, which then has to be there by itself."""
        return self.first is not None or self.beside is not None

    def finish(self, output: Tensor, x: Tensor | None = None) -> Tensor:
        """The output of the map, and what happens to it afterwards; x is its input, where ``beside`` is given."""
        if self.beside is not None:
            assert x is not None  # whoever makes the input within an operation asks ``reads``
            output = self.beside(x, output)
        return output if self.then is None else self.then(output)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """W in a format."""
        return self.weight.to(dtype) if self.decode is None else self.decode(dtype)


@dataclass(frozen=True)
class Norm:
    """``y = (offset + w) * x / rms(x)`` (Zhang & Sennrich, 2019, equation 4), in the order in which Llama rounds."""

    weight: Tensor
    eps: float
    offset: float = 0.0


def project(x: Tensor, projections: Sequence[Projection]) -> list[Tensor]:
    """Each projection of x, [..., O]. Gradients reach x, A, B, and weights and biases that ask for one."""
    if all(p.first is None for p in projections):
        return _project_together(x, projections)
    return [_project_together(x if p.first is None else p.first(x), [p])[0] for p in projections]


def _project_together(x: Tensor, projections: Sequence[Projection]) -> list[Tensor]:
    flat = x.reshape(-1, x.shape[-1])
    outputs = _Project.apply(flat, constants_of(projections), *_tensors(projections))
    return [p.finish(o.view(*x.shape[:-1], -1), x) for p, o in zip(projections, outputs, strict=True)]


def norm_and_project(
    x: Tensor, delta: Tensor | None, norm: Norm, projections: Sequence[Projection]
) -> tuple[Tensor, list[Tensor]]:
    """``s = x + delta`` and each projection of ``norm(s)``; only s is kept for the backward pass.

    Returns:
        s (x itself without a delta) and the projections, [..., O].
    """
    if any(p.reads for p in projections):
        raise ValueError("nothing but maps can read a norm that is not kept")
    flat = x.reshape(-1, x.shape[-1])
    flat_delta = delta.reshape_as(flat) if delta is not None else None
    settings = (norm.eps, norm.offset, constants_of(projections))
    total, *outputs = _NormAndProject.apply(flat, flat_delta, norm.weight, settings, *_tensors(projections))
    return total.view_as(x), [p.finish(o.view(*x.shape[:-1], -1)) for p, o in zip(projections, outputs, strict=True)]


def add_and_norm(x: Tensor, delta: Tensor | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """``s = x + delta`` (x itself without a delta) and ``norm(s)``, for what reads the norm apart from maps."""
    flat = x.reshape(-1, x.shape[-1])
    flat_delta = delta.reshape_as(flat) if delta is not None else None
    total, y = _AddAndNorm.apply(flat, flat_delta, norm.weight, norm.eps, norm.offset)
    return total.view_as(x), y.view_as(x)


def gate_and_project(gate: Tensor, up: Tensor, projection: Projection) -> Tensor:
    """The projection of ``silu(gate) * up`` (SwiGLU; Shazeer, 2020, equation 6), kept if more than the map reads it."""
    if projection.reads:
        return project(F.silu(gate) * up, [projection])[0]
    flat_gate, flat_up = (t.reshape(-1, t.shape[-1]) for t in (gate, up))
    output = _GateAndProject.apply(flat_gate, flat_up, constants_of([projection]), *projection.tensors)
    return projection.finish(output.view(*gate.shape[:-1], -1))


def constants_of(projections: Sequence[Projection]) -> tuple[Constants, ...]:
    """The constants of each."""
    return tuple(Constants(p.scale, p.decode, p.eight) for p in projections)


def _tensors(projections: Sequence[Projection]) -> list[Tensor | None]:
    return [t for p in projections for t in p.tensors]


def unflatten(tensors: Sequence[Tensor | None], constants: Sequence[Constants]) -> list[Projection]:
    """Projections from their tensors side by side, as they travel through autograd."""
    made = []
    for i, (scale, decode, eight) in enumerate(constants):
        weight, bias, down, up = tensors[4 * i : 4 * i + 4]
        assert weight is not None  # a map always has one
        made.append(Projection(weight, bias, down, up, scale, decode=decode, eight=eight))
    return made


class Maps:
    """The products of some projections of one input, forward and backward."""

    def __init__(self, projections: list[Projection], dtype: torch.dtype) -> None:
        if dtype != torch.bfloat16:  # what the products in 8 bits read
            projections = [replace(p, eight=None) for p in projections]
        self.projections, self.dtype = projections, dtype
        self.low = [i for i, p in enumerate(projections) if p.A is not None]
        down = [p.A for p in projections if p.A is not None]
        self.down = torch.cat(down) if len(down) > 1 else down[0] if down else None
        self.ranks = [len(a) for a in down]

    def forward(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """The outputs, and ``x A^T`` of all updates side by side."""
        inner = narrow_product(x, self.down) if self.down is not None else None
        parts = dict(zip(self.low, inner.split(self.ranks, 1), strict=True)) if inner is not None else {}
        rows = round_rows(x) if any(p.eight is not None for p in self.projections) else None
        return [self._output(p, x, rows, parts.get(i)) for i, p in enumerate(self.projections)], inner

    def _output(self, p: Projection, x: Tensor, rows: Rows | None, part: Tensor | None) -> Tensor:
        if p.eight is not None and rows is not None:
            return p.eight.forward(rows, p.bias, part, p.B if part is not None else None, p.scale)
        output = F.linear(x, p.matrix(x.dtype), _cast(p.bias, x.dtype))
        if part is not None:
            output.addmm_(part, p.B.to(x.dtype).t(), alpha=p.scale)  # type: ignore[union-attr]
        return output

    def input_gradient(self, upstream: Sequence[Tensor], low: Tensor | None) -> Tensor:
        """``sum_p dy_p W_p + s (dy_p B_p) A_p``, summed by the products."""
        total = None
        for g, p in zip(upstream, self.projections, strict=True):
            if p.eight is not None:
                total = p.eight.backward(round_rows(g), low, self.down, total)
                low = None  # added once
            elif total is None:
                total = g @ p.matrix(self.dtype)
            else:
                total.addmm_(g, p.matrix(self.dtype))
        assert total is not None  # there is at least one map
        return total.addmm_(low, self.down.to(self.dtype)) if low is not None and self.down is not None else total

    def low_gradient(self, upstream: Sequence[Tensor]) -> Tensor | None:
        """``s dy B`` of all updates side by side, [N, sum R]."""
        if self.down is None:
            return None
        low = upstream[0].new_empty(upstream[0].shape[0], sum(self.ranks))
        for part, i in zip(low.split(self.ranks, 1), self.low, strict=True):
            p = self.projections[i]
            assert p.B is not None  # A and B come together
            narrow_product(upstream[i], p.B.t(), p.scale, out=part)
        return low

    def gradients(
        self, x: Tensor, inner: Tensor | None, upstream: Sequence[Tensor], low: Tensor | None, needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Gradients of weight, bias, A and B of every projection, None for those that need none."""
        found: list[Tensor | None] = [None] * (4 * len(self.projections))
        if low is not None and inner is not None:
            downs = outer_product(low, x).split(self.ranks, 0)
            inners = inner.split(self.ranks, 1)
            for i, down, part in zip(self.low, downs, inners, strict=True):
                p = self.projections[i]
                found[4 * i + 2] = down.to(p.A.dtype)  # type: ignore[union-attr]
                found[4 * i + 3] = outer_product(part, upstream[i]).to(p.B.dtype).mul_(p.scale).t()  # type: ignore[union-attr]
        for i, p in enumerate(self.projections):
            if needed[4 * i]:
                found[4 * i] = (upstream[i].t() @ x).to(p.weight.dtype)
            if needed[4 * i + 1] and p.bias is not None:
                found[4 * i + 1] = upstream[i].sum(0, dtype=wide(x)).to(p.bias.dtype)
        return found


def _cast(tensor: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    return tensor.to(dtype) if tensor is not None else None


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, constants: tuple[Constants, ...], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        outputs, inner = Maps(unflatten(tensors, constants), x.dtype).forward(x)
        ctx.constants = constants
        ctx.save_for_backward(x, inner, *tensors)
        return tuple(outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, *tensors = ctx.saved_tensors
        maps = Maps(unflatten(tensors, ctx.constants), x.dtype)
        low = maps.low_gradient(upstream)
        grads = maps.gradients(x, inner, upstream, low, ctx.needs_input_grad[2:])
        return maps.input_gradient(upstream, low) if ctx.needs_input_grad[0] else None, None, *grads


class _NormAndProject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        delta: Tensor | None,
        weight: Tensor,
        settings: tuple[float, float, tuple[Constants, ...]],
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        eps, offset, constants = settings
        total, y, rstd = rms_norm(x, delta, weight, eps, offset)
        outputs, inner = Maps(unflatten(tensors, constants), x.dtype).forward(y)
        ctx.settings, ctx.added = settings, delta is not None
        ctx.save_for_backward(total, rstd, weight, inner, *tensors)
        return (total if delta is not None else total.view_as(total), *outputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, through: Tensor | None, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        total, rstd, weight, inner, *tensors = ctx.saved_tensors
        eps, offset, constants = ctx.settings
        maps = Maps(unflatten(tensors, constants), total.dtype)
        y = rms_norm_again(total, weight, rstd, eps, offset)
        low = maps.low_gradient(upstream)
        grads = maps.gradients(y, inner, upstream, low, ctx.needs_input_grad[4:])
        needs_x, needs_delta, needs_weight = ctx.needs_input_grad[:3]
        if not (needs_x or needs_delta or needs_weight):
            return None, None, None, None, *grads
        inward = maps.input_gradient(upstream, low)
        grad, grad_weight = rms_norm_gradient(inward, total, weight, rstd, through, offset, needs_weight)
        return grad if needs_x else None, grad if needs_delta else None, grad_weight, None, *grads


class _AddAndNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, delta: Tensor | None, weight: Tensor, eps: float, offset: float
    ) -> tuple[Tensor, Tensor]:
        total, y, rstd = rms_norm(x, delta, weight, eps, offset)
        ctx.offset, ctx.added = offset, delta is not None
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(total, rstd, weight)
        return (total if delta is not None else total.view_as(total)), y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, through: Tensor | None, upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        total, rstd, weight = ctx.saved_tensors
        upstream = torch.zeros_like(total) if upstream is None else upstream.contiguous()
        grad, grad_weight = rms_norm_gradient(
            upstream, total, weight, rstd, through, ctx.offset, ctx.needs_input_grad[2]
        )
        return grad, grad if ctx.added else None, grad_weight, None, None


class _GateAndProject(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gate: Tensor, up: Tensor, constants: tuple[Constants, ...], *tensors: Tensor | None
    ) -> Tensor:
        outputs, inner = Maps(unflatten(tensors, constants), gate.dtype).forward(swiglu(gate, up))
        ctx.constants = constants
        ctx.save_for_backward(gate, up, inner, *tensors)
        return outputs[0]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gate, up, inner, *tensors = ctx.saved_tensors
        maps = Maps(unflatten(tensors, ctx.constants), gate.dtype)
        needs = ctx.needs_input_grad[3:]
        low = maps.low_gradient([upstream])
        # made again only where a gradient reads it
        x = swiglu(gate, up) if any(needs) else gate
        grads = maps.gradients(x, inner, [upstream], low, needs)
        return *swiglu_gradient(maps.input_gradient([upstream], low), gate, up), None, *grads
