"""Weighed squared distances of weights from where they began, with gradients that keep no copy of a difference.

Shapes: D_in and D_out the sides of a matrix, R rank.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

_FLAT = 1 << 20  # numbers of a tensor at a time; differences of so many stay in a processor's cache
_BLOCK = 1 << 20  # numbers of an update at a time


class LowRankUpdate(NamedTuple):
    """``s B A`` with what weighs its squares: ``r_i c_j``, or 1."""

    A: Tensor  # [R, D_in]
    B: Tensor  # [D_out, R]
    scale: float
    rows: Tensor | None = None  # [D_out] r
    columns: Tensor | None = None  # [D_in] c


def low_rank_square(updates: Sequence[LowRankUpdate]) -> Tensor:
    """``sum_ij r_i c_j (s B A)_ij^2`` over all updates, [], without the products.

    ``||s diag(r)^(1/2) B A diag(c)^(1/2)||_F^2 = s^2 tr((B^T diag(r) B) (A diag(c) A^T))``: two [R, R] matrices each.
    """
    flat = [tensor for u in updates for tensor in (u.A, u.B)]
    return _LowRankSquare.apply([(u.scale, u.rows, u.columns) for u in updates], *flat)


class _LowRankSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Sequence[tuple[float, Tensor | None, Tensor | None]], *factors: Tensor) -> Tensor:
        kept, total = [], torch.zeros((), dtype=factors[0].dtype, device=factors[0].device)
        for (scale, rows, columns), A, B in zip(settings, factors[::2], factors[1::2], strict=True):
            own_A = (A if columns is None else A * columns) @ A.t()
            own_B = B.t() @ (B if rows is None else B * rows[:, None])
            total += scale**2 * torch.dot(own_A.flatten(), own_B.flatten())
            kept += [own_A, own_B]
        ctx.settings = settings
        ctx.save_for_backward(*factors, *kept)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        """``2 s^2 (B^T r B) A c`` and ``2 s^2 r B (A c A^T)``."""
        half = len(ctx.saved_tensors) // 2
        factors, kept = ctx.saved_tensors[:half], ctx.saved_tensors[half:]
        found: list[Tensor | None] = []
        for i, (scale, rows, columns) in enumerate(ctx.settings):
            (A, B), (own_A, own_B) = factors[2 * i : 2 * i + 2], kept[2 * i : 2 * i + 2]
            factor = 2 * scale**2 * upstream
            for needed, gram, other, weights in (
                (ctx.needs_input_grad[1 + 2 * i], own_B, A, columns),
                (ctx.needs_input_grad[2 + 2 * i], own_A, B, rows[:, None] if rows is not None else None),
            ):
                if not needed:
                    found.append(None)
                    continue
                product = (factor * gram) @ other if other is A else other @ (factor * gram)
                found.append(product if weights is None else product * weights)
        return None, *found


def descend_matrices_(updates: Sequence[LowRankUpdate], factor: float) -> list[Tensor]:
    """The parts of ``low_rank_square``, with their gradients times ``factor`` added to what the factors are made of.

    Factors that are trained themselves, as LoRA's are, take the closed form; those that are computed go backward.
    """
    plain = [u for u in updates if u.A.is_leaf and u.B.is_leaf]
    made = [u for u in updates if not (u.A.is_leaf and u.B.is_leaf)]
    parts = [descend_low_rank_(plain, factor)] if plain else []
    if made:
        total = low_rank_square(made)
        if total.requires_grad:
            (total * factor).backward()
        parts.append(total.detach())
    return parts


@torch.no_grad()
def descend_low_rank_(updates: Sequence[LowRankUpdate], factor: float) -> Tensor:
    """``low_rank_square`` of trained factors, with its gradient times ``factor`` added to their ``grad``.

    One product a factor that adds to what is there: no gradient of its own is written and read again.
    """
    total = torch.zeros((), dtype=updates[0].A.dtype, device=updates[0].A.device)
    for A, B, scale, rows, columns in updates:
        flat_A, flat_B = A.detach(), B.detach()
        weighed_A = flat_A if columns is None else flat_A * columns
        weighed_B = flat_B if rows is None else flat_B * rows[:, None]
        own_A, own_B = weighed_A @ flat_A.t(), flat_B.t() @ weighed_B
        total += scale**2 * torch.dot(own_A.view(-1), own_B.view(-1))
        if A.requires_grad:
            _gradient(A).addmm_(own_B, weighed_A, alpha=2 * scale**2 * factor)
        if B.requires_grad:
            _gradient(B).addmm_(weighed_B, own_A, alpha=2 * scale**2 * factor)
    return total


def _gradient(tensor: Tensor) -> Tensor:
    """The gradient of something that is trained, zero where nothing reached it yet."""
    if tensor.grad is None:
        tensor.grad = torch.zeros_like(tensor)
    return tensor.grad


class WeighedUpdate(NamedTuple):
    """``s B A`` with a weight for every number of it."""

    A: Tensor  # [R, D_in]
    B: Tensor  # [D_out, R]
    scale: float
    weights: Tensor  # [D_out, D_in]


def weighed_low_rank_square(updates: Sequence[WeighedUpdate]) -> Tensor:
    """``sum_ij F_ij (s B A)_ij^2`` over all updates, []; of a product only some rows exist at a time."""
    flat = [tensor for u in updates for tensor in (u.A, u.B)]
    return _WeighedSquare.apply([(u.scale, u.weights) for u in updates], *flat)


class _WeighedSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: Sequence[tuple[float, Tensor]], *factors: Tensor) -> Tensor:
        gradients, total = [], torch.zeros((), dtype=factors[0].dtype, device=factors[0].device)
        for (scale, weights), A, B in zip(settings, factors[::2], factors[1::2], strict=True):
            grad_A, grad_B = torch.zeros_like(A), torch.empty_like(B)
            for rows in _blocks(B.shape[0], A.shape[1]):
                update = B[rows] @ A
                pull = update * weights[rows].to(update)
                total += scale**2 * torch.dot(update.flatten(), pull.flatten())
                grad_B[rows] = pull @ A.t()
                grad_A += B[rows].t() @ pull
            gradients += [grad_A.mul_(2 * scale**2), grad_B.mul_(2 * scale**2)]
        ctx.save_for_backward(*gradients)  # as large as the factors, and half of the work is done already
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        return None, *(gradient * upstream for gradient in ctx.saved_tensors)


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, columns))
    return (slice(start, start + size) for start in range(0, rows, size))


def squared_distance(
    tensors: Sequence[Tensor], anchors: Sequence[Tensor], weights: Sequence[Tensor] | None = None
) -> Tensor:
    """``sum_i F_i (w_i - a_i)^2`` over all tensors, []; F is 1 without weights.

    Args:
        tensors: What is trained.
        anchors: Where it began, in any format and on any device.
        weights: F, likewise.
    """
    weighing = weights if weights is not None else [None] * len(tensors)
    # one by one, so that a gradient is added to its tensor and gone before the next one is made
    parts = [_Distance.apply(t, a, w) for t, a, w in zip(tensors, anchors, weighing, strict=True)]
    return torch.stack(parts).sum()


@torch.no_grad()
def descend_distance_(
    tensors: Sequence[Tensor], anchors: Sequence[Tensor], factor: float, weights: Sequence[Tensor] | None = None
) -> Tensor:
    """``squared_distance`` in one pass, with its gradient times ``factor`` added to the ``grad`` of the tensors."""
    total = torch.zeros((), dtype=torch.float64, device=tensors[0].device)
    for tensor, anchor, weighing in zip(tensors, anchors, weights or [None] * len(tensors), strict=True):
        gradient = _gradient(tensor) if tensor.requires_grad else None
        flat = gradient.view(-1) if gradient is not None and gradient.is_contiguous() else None
        for part, difference, pull in _differences(tensor, anchor, weighing):
            total += torch.dot(difference, pull).double()
            if flat is not None:
                flat[part].add_(pull, alpha=2 * factor)
        if gradient is not None and flat is None:
            whole = torch.cat([pull for _, _, pull in _differences(tensor, anchor, weighing)])
            gradient.add_(whole.view_as(tensor), alpha=2 * factor)
    return total.to(tensors[0].dtype)


class _Distance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, anchor: Tensor, weights: Tensor | None) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=tensor.device)
        for _, difference, pull in _differences(tensor, anchor, weights):
            total += torch.dot(difference, pull).double()
        ctx.anchor, ctx.weights = anchor, weights
        ctx.save_for_backward(tensor)
        return total.to(tensor.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (tensor,) = ctx.saved_tensors
        gradient = torch.empty_like(tensor, memory_format=torch.contiguous_format)
        flat = gradient.view(-1)
        for part, _, pull in _differences(tensor, ctx.anchor, ctx.weights):
            torch.mul(pull, 2 * upstream, out=flat[part])
        return gradient, None, None


def _differences(tensor: Tensor, anchor: Tensor, weights: Tensor | None) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Stretches of a tensor: where, its difference from the anchor, and that with the weights."""
    flat, other = tensor.detach().reshape(-1), anchor.reshape(-1)
    weighing = weights.reshape(-1) if weights is not None else None
    for start in range(0, flat.numel(), _FLAT):
        part = slice(start, start + _FLAT)
        difference = flat[part] - other[part].to(flat, non_blocking=True)
        yield part, difference, difference if weighing is None else difference * weighing[part].to(flat)
