"""Products in 8 bits against the same codes multiplied in float64, and how near they are to exact ones."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from burnish.ops.cross_entropy import chunked_token_losses
from burnish.ops.eight_bits import EightBits, available, round_rows
from burnish.ops.native.eight_bits import Panels, Rows
from burnish.ops.projections import Projection, project

pytestmark = pytest.mark.skipif(not available(), reason="the processor multiplies no 8 bits, or there is no compiler")

SHAPES = [(1, 64, 48), (7, 65, 3), (300, 130, 100), (5, 1700, 50), (9, 2, 97)]
"""Rows, inner and outer width: whole panels and groups, more than one block of rows and of groups, and odd ends."""


def made(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def rows_of(found: Rows, width: int) -> Tensor:
    """What the codes of rows stand for, in float64."""
    codes = found.codes.double().view(len(found.codes), -1, 64)
    return (codes * found.scales.double()[..., None]).flatten(1)[:, :width]


def matrix_of(found: Panels, width: int) -> Tensor:
    """What the codes of panels stand for, in float64."""
    codes = found.codes.double().transpose(1, 2).flatten(2).flatten(0, 1) - 128
    return (codes * found.scales.double()[:, None])[: found.columns, :width]


@pytest.mark.parametrize(("rows", "width"), [(3, 64), (2, 100), (1, 1)])
def test_rows_by_the_largest_of_64(rows: int, width: int) -> None:
    """A code is ``round(127 x / m)`` with m the largest of its 64 numbers, so x is missed by half a step, m / 254, at
    most; and the sum of a group starts from -128 times the sum of its codes."""
    x = made(rows, width)
    found = round_rows(x)
    largest = F.pad(x.double(), (0, -width % 64)).view(rows, -1, 64).abs().amax(-1)
    error = F.pad((rows_of(found, width) - x.double()).abs(), (0, -width % 64)).view(rows, -1, 64).amax(-1)
    assert bool((error <= largest / 254 * 1.001).all())
    assert torch.equal(found.start, -128 * found.codes.view(rows, -1, 64).sum(-1, dtype=torch.int32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_matrix_by_the_largest_of_each_row(dtype: torch.dtype) -> None:
    """Forward each row of W has a scale, backward each column, which is a row of its transpose."""
    weight = made(50, 70, dtype=dtype)
    eight = EightBits.of(weight)
    for panels, wanted in ((eight.by_output, weight), (eight.by_input, weight.t())):
        error = (matrix_of(panels, wanted.shape[1]) - wanted.double()).abs().amax(1)
        assert bool((error <= wanted.double().abs().amax(1) / 254 * 1.001).all())
    padded = 96 * 128 + 96 * 64  # rows up to 48s times columns up to 64s: 96 x 128 codes forward, 96 x 64 backward
    assert eight.nbytes == padded + 4 * (96 + 96)


@pytest.mark.parametrize(("rows", "inner", "outer"), SHAPES)
@pytest.mark.parametrize("rank", [0, 3, 16])
@pytest.mark.parametrize("bias", [False, True])
def test_forward_is_the_product_of_the_codes(rows: int, inner: int, outer: int, rank: int, bias: bool) -> None:
    """``x8 W8^T + b + 2 a B^T`` in float64 with B rounded to bf16 after scaling; sums within a group are exact, so only
    the rounding to bf16 remains, 2**-8 of the value, and that of fp32 sums."""
    x, weight, b = made(rows, inner), made(outer, inner, seed=1), made(outer, seed=2) if bias else None
    low, up = (made(rows, rank, seed=3), made(outer, rank, seed=4, dtype=torch.float32)) if rank else (None, None)
    eight, codes = EightBits.of(weight), round_rows(x)
    wanted = rows_of(codes, inner) @ matrix_of(eight.by_output, inner).t()
    if b is not None:
        wanted = wanted + b.double()
    if low is not None and up is not None:
        wanted = wanted + low.double() @ (2 * up).bfloat16().double().t()
    found = eight.forward(codes, b, low, up, 2.0)
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-5 * float(wanted.abs().max()))


@pytest.mark.parametrize(("rows", "inner", "outer"), SHAPES)
@pytest.mark.parametrize("added", [False, True])
def test_backward_is_the_product_of_the_codes(rows: int, inner: int, outer: int, added: bool) -> None:
    """``dy8 W8 + l A`` in float64, added to what is there."""
    dy, weight, low, down = made(rows, outer), made(outer, inner, seed=1), made(rows, 5, seed=2), made(5, inner, seed=3)
    into = made(rows, inner, seed=4) if added else None
    eight, codes = EightBits.of(weight), round_rows(dy)
    wanted = rows_of(codes, outer) @ matrix_of(eight.by_input, outer).t() + low.double() @ down.double()
    wanted = wanted + (into.double() if into is not None else 0)
    found = eight.backward(codes, low, down, into)
    torch.testing.assert_close(found.double(), wanted, rtol=2**-8, atol=1e-5 * float(wanted.abs().max()))
    assert into is None or found is into


def test_how_far_from_exact() -> None:
    """The largest size of 64 normal numbers is 2.65 deviations (root mean square), so a step is 2.65 / 127 and its
    error, uniform within it, 2.65 / 127 / sqrt(12) = 0.0060 of a deviation; of 512 it is 3.26, 0.0074. Both add up as
    squares: 0.0095."""
    x, weight = made(256, 512), made(512, 512, seed=1)
    exact = x.double() @ weight.double().t()
    found = EightBits.of(weight).forward(round_rows(x)).double()
    error = float((found - exact).norm() / exact.norm())
    assert error == pytest.approx(math.hypot(0.0060, 0.0074), rel=0.05)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """A run that went wrong has to be stopped, so a row with such a number is NaN behind the map, and no other row."""
    x, weight = made(3, 128), made(48, 128, seed=1)
    x[1, 70] = bad
    found = EightBits.of(weight).forward(round_rows(x))
    assert bool(found[1].isnan().all()) and bool(found[[0, 2]].isfinite().all())
    weight[5, 3] = bad
    found = EightBits.of(weight).forward(round_rows(made(3, 128)))
    assert bool(found[:, 5].isnan().all()) and bool(found[:, :5].isfinite().all())


def test_zeros() -> None:
    """Nothing is divided by the largest number of a group of zeros."""
    found = EightBits.of(torch.zeros(4, 64).bfloat16()).forward(round_rows(torch.zeros(2, 64).bfloat16()))
    assert bool((found == 0).all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_projections(dtype: torch.dtype) -> None:
    """Two maps of one input, one with LoRA, one exact: gradients near those without rounding, within a tenth of 1 % of
    angle. In fp32 nothing is rounded, and they are equal."""
    torch.manual_seed(0)
    weights = [made(96, 128, seed=s).to(dtype) for s in (1, 2)]
    A, B = torch.randn(4, 128, requires_grad=True), torch.randn(96, 4, requires_grad=True)

    def outcome(rounded: bool) -> list[Tensor]:
        x = made(40, 128, seed=3).to(dtype).requires_grad_()
        eight = EightBits.of(weights[0]) if rounded else None
        first = Projection(weights[0], made(96, seed=4).to(dtype), A, B, 0.5, eight=eight)
        outputs = project(x, [first, Projection(weights[1])])
        loss = sum((o.float() * made(40, 96, seed=5 + i).float()).sum() for i, o in enumerate(outputs))
        return [*(o.detach() for o in outputs), *torch.autograd.grad(loss, [x, A, B])]

    for found, wanted in zip(outcome(True), outcome(False), strict=True):
        if dtype == torch.float32:
            assert torch.equal(found, wanted)
        else:
            assert float(F.cosine_similarity(found.double().flatten(), wanted.double().flatten(), 0)) > 0.999


def test_a_frozen_head() -> None:
    """Losses and the gradient of hidden states near exact ones: over 500 words, in three chunks."""
    weight, labels = made(500, 64, seed=1) / 8, torch.arange(30)

    def outcome(eight: EightBits | None) -> tuple[Tensor, Tensor]:
        hidden = made(30, 64).requires_grad_()
        losses = chunked_token_losses(hidden, weight, labels, chunk=11, eight=eight)
        return losses.detach(), torch.autograd.grad(losses.sum(), hidden)[0]

    (losses, gradient), (exact, wanted) = outcome(EightBits.of(weight)), outcome(None)
    torch.testing.assert_close(losses, exact, rtol=0, atol=0.05)
    assert not torch.equal(losses, exact)
    assert float(F.cosine_similarity(gradient.double().flatten(), wanted.double().flatten(), 0)) > 0.999


def test_shapes_without_numbers() -> None:
    """A plan traces the same calls on shapes."""
    with FakeTensorMode():
        x, weight = torch.empty(40, 130, dtype=torch.bfloat16), torch.empty(50, 130, dtype=torch.bfloat16)
        eight = EightBits.of(weight)
        assert eight.forward(round_rows(x)).shape == (40, 50)
        assert eight.backward(round_rows(x.new_empty(40, 50))).shape == (40, 130)
        assert eight.nbytes == EightBits.of(weight).nbytes == 96 * 192 + 144 * 64 + 4 * (96 + 144)
