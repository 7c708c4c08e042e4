"""Narrow products against float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.ops import low_rank
from burnish.ops.native import kernels
from burnish.ops.native import low_rank as native

needs_kernels = pytest.mark.skipif(
    not kernels.attention_available(), reason="the processor has no dot products of bf16 pairs, or there is no compiler"
)
SHAPES = [(1, 16, 1), (25, 64, 5), (300, 130, 16), (129, 38, 24), (12, 34, 40)]


def made(*shape: int, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    assert float((found.double() - wanted).abs().max()) <= tolerance * float(wanted.abs().max())


@needs_kernels
@pytest.mark.parametrize(("rows", "width", "rank"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_narrow_product(rows: int, width: int, rank: int, dtype: torch.dtype) -> None:
    """``s x A^T`` with ``s A`` rounded to bf16: half a unit of 2**-8 from rounding the sum. Into a part of a tensor it
    changes nothing else there."""
    x, matrix = made(rows, width), made(rank, width, seed=1, dtype=dtype)
    wanted = x.double() @ (0.3 * matrix.float()).bfloat16().double().t()
    close(low_rank.narrow_product(x, matrix, 0.3), wanted, 2**-8)
    whole = torch.zeros(rows, rank + 3, dtype=torch.bfloat16)
    close(low_rank.narrow_product(x, matrix, 0.3, whole[:, 1:-2]), wanted, 2**-8)
    assert not whole[:, 0].any() and not whole[:, -2:].any()


@needs_kernels
@pytest.mark.parametrize(("rows", "width", "rank"), SHAPES)
def test_outer_product(rows: int, width: int, rank: int) -> None:
    """``l^T x`` summed in fp32 and not rounded: 1e-6 of the largest."""
    low, x = made(rows, rank + 2)[:, 1:-1], made(rows, width + 8, seed=1)[:, 4:-4]
    found = low_rank.outer_product(low, x)
    assert found.shape == (rank, width) and found.dtype == torch.float32
    close(found, low.double().t() @ x.double(), 1e-6)


@needs_kernels
def test_pairs_by_hand() -> None:
    """Columns 1, 2, 3 and 4, 5, 6 of three rows: the word of rows 0 and 1 holds row 0 in its lower half; a third row
    has zero beside it. bf16 of 1, 2, ... is the upper half of the fp32 bits."""
    matrix = torch.tensor([[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]])
    halves = native.paired(matrix, 2.0, 4).view(torch.bfloat16).view(2, 4, 2)
    assert halves[0, :2].tolist() == [[2.0, 4.0], [8.0, 10.0]]
    assert halves[1, :2].tolist() == [[6.0, 0.0], [12.0, 0.0]]
    assert not halves[:, 2:].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_plain_way(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without kernels, the same in the format of x."""
    monkeypatch.setattr(native, "usable", lambda *tensors: False)
    x, matrix, low = made(9, 10, dtype=dtype), made(3, 10, seed=1, dtype=dtype), made(9, 3, seed=2, dtype=dtype)
    tolerance = 2**-6 if dtype == torch.bfloat16 else 1e-5
    close(low_rank.narrow_product(x, matrix, 0.5), 0.5 * x.double() @ matrix.double().t(), tolerance)
    out = torch.zeros(9, 3, dtype=dtype)
    assert low_rank.narrow_product(x, matrix, 0.5, out) is out
    close(low_rank.outer_product(low, x), low.double().t() @ x.double(), tolerance)


@needs_kernels
def test_rows_of_an_odd_width_go_the_plain_way() -> None:
    """The kernel reads pairs."""
    x, matrix = made(5, 7), made(2, 7, seed=1)
    assert not native.usable(x, matrix)
    close(low_rank.narrow_product(x, matrix), x.double() @ matrix.double().t(), 2**-7)
