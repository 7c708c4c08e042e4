"""Squared distances and their gradients against float64 arithmetic with every update written out as a matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.ops import distance
from burnish.ops.distance import (
    LowRankUpdate,
    WeighedUpdate,
    descend_distance_,
    descend_matrices_,
    low_rank_square,
    squared_distance,
    weighed_low_rank_square,
)

SHAPES = ((7, 5, 2), (4, 9, 3))
"""D_out, D_in and R of two matrices."""
SCALES = (0.5, 2.0)


def factors() -> list[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(0)
    return [
        (
            torch.randn(rank, inner, generator=draw, dtype=torch.float64).requires_grad_(),
            torch.randn(outer, rank, generator=draw, dtype=torch.float64).requires_grad_(),
        )
        for outer, inner, rank in SHAPES
    ]


def by_hand(pairs: list[tuple[Tensor, Tensor]], weights: list[Tensor]) -> tuple[float, list[Tensor]]:
    """``sum F (s B A)^2`` and its derivatives ``2 s^2 B^T (F * B A)`` and ``2 s^2 (F * B A) A^T``, written out."""
    value, gradients = 0.0, []
    for (A, B), scale, F in zip(pairs, SCALES, weights, strict=True):
        update = B.detach() @ A.detach()
        value += scale**2 * float((F * update**2).sum())
        gradients += [2 * scale**2 * B.detach().t() @ (F * update), 2 * scale**2 * (F * update) @ A.detach().t()]
    return value, gradients


def check(found: Tensor, pairs: list[tuple[Tensor, Tensor]], weights: list[Tensor], upstream: float = 3.0) -> None:
    value, expected = by_hand(pairs, weights)
    assert float(found.detach()) == pytest.approx(value, rel=1e-12)
    gradients = torch.autograd.grad(found * upstream, [t for pair in pairs for t in pair])
    torch.testing.assert_close(gradients, tuple(upstream * g for g in expected), rtol=1e-12, atol=1e-12)


def test_of_low_rank_updates() -> None:
    pairs = factors()
    updates = [LowRankUpdate(A, B, scale) for (A, B), scale in zip(pairs, SCALES, strict=True)]
    check(low_rank_square(updates), pairs, [torch.ones(shape[:2], dtype=torch.float64) for shape in SHAPES])


def test_weighed_by_rows_and_columns() -> None:
    pairs, draw = factors(), torch.Generator().manual_seed(1)
    sides = [[torch.rand(n, generator=draw, dtype=torch.float64) for n in shape[:2]] for shape in SHAPES]
    updates = [LowRankUpdate(A, B, scale, *s) for (A, B), scale, s in zip(pairs, SCALES, sides, strict=True)]
    check(low_rank_square(updates), pairs, [torch.outer(*s) for s in sides])


def test_weighed_one_by_one_in_blocks_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 10 numbers: two rows of the first matrix at a time, one of the second."""
    monkeypatch.setattr(distance, "_BLOCK", 10)
    pairs, draw = factors(), torch.Generator().manual_seed(1)
    weights = [torch.rand(shape[:2], generator=draw, dtype=torch.float64) for shape in SHAPES]
    updates = [WeighedUpdate(A, B, s, F) for (A, B), s, F in zip(pairs, SCALES, weights, strict=True)]
    check(weighed_low_rank_square(updates), pairs, weights)


@pytest.mark.parametrize("weighed", [False, True])
def test_of_tensors(weighed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """``sum F (w - a)^2`` and ``2 F (w - a)``, 4 numbers at a time; a frozen tensor counts and gets no gradient."""
    monkeypatch.setattr(distance, "_FLAT", 4)
    draw = torch.Generator().manual_seed(0)
    tensors, anchors, weights = (
        [torch.rand(shape, generator=draw, dtype=torch.float64) for shape in ((3, 5), (6,), (2, 2))] for _ in range(3)
    )
    for tensor in tensors[:2]:
        tensor.requires_grad_()
    found = squared_distance(tensors, anchors, weights if weighed else None)
    F = weights if weighed else [torch.ones_like(w) for w in weights]
    moved = [t.detach() - a for t, a in zip(tensors, anchors, strict=True)]
    assert float(found.detach()) == pytest.approx(sum(float((f * m**2).sum()) for f, m in zip(F, moved, strict=True)))
    gradients = torch.autograd.grad(3 * found, tensors[:2])
    expected = tuple(6 * f * m for f, m in zip(F, moved[:2], strict=False))
    torch.testing.assert_close(gradients, expected)
    again = descend_distance_(tensors, anchors, 3.0, weights if weighed else None)
    torch.testing.assert_close((again, tensors[0].grad, tensors[1].grad), (found.detach(), *expected))
    assert tensors[2].grad is None


def test_the_closed_form_adds_to_gradients_that_are_there() -> None:
    """A gradient of ones, a frozen factor, and one that is computed and so goes backward."""
    pairs = factors()
    weights = [torch.ones(shape[:2], dtype=torch.float64) for shape in SHAPES]
    value, expected = by_hand(pairs, weights)
    (A, B), (C, D) = pairs
    A.grad = torch.ones_like(A)
    parts = descend_matrices_([LowRankUpdate(A, B, SCALES[0]), LowRankUpdate(C, D * 1, SCALES[1])], 3.0)
    assert float(sum(parts)) == pytest.approx(value, rel=1e-12) and not any(part.requires_grad for part in parts)
    found = (A.grad - 1, B.grad, C.grad, D.grad)
    torch.testing.assert_close(found, tuple(3 * g for g in expected), rtol=1e-12, atol=1e-12)
    A.requires_grad_(False).grad = None
    descend_matrices_([LowRankUpdate(A, B, SCALES[0])], 1.0)
    assert A.grad is None


def test_of_a_tensor_that_has_not_moved_is_zero_whatever_its_format() -> None:
    tensor = torch.randn(5, 3).requires_grad_()
    found = squared_distance([tensor], [tensor.detach().clone()])
    assert float(found.detach()) == 0.0
    assert not torch.autograd.grad(found, tensor)[0].any()
