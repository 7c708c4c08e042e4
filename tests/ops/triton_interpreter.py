"""Triton's kernels on a processor: the interpreter runs them program by program, in the order of the grid."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType

import pytest
import torch
from torch import Tensor

PROMISED = {torch.float32: 1e-5, torch.float16: 2**-9, torch.bfloat16: 2**-6}
"""Tolerance relative to the largest number: fp32 sums; fp16 and bf16 round inputs, a product and the result, each to
2^-11 and 2^-8 of a number."""


@cache
def interpreted(name: str) -> ModuleType:
    """``burnish.ops.triton.NAME``; skips the test where Triton is not installed.

    Without a GPU its kernels are interpreted, because ``tests/__init__.py`` says so before Triton is imported. With
    one, they would need tensors on it: these tests then skip.
    """
    if torch.cuda.is_available():
        pytest.skip("the interpreter is for machines without a GPU")
    pytest.importorskip("triton", reason="Triton is not installed (`pip install triton`, Linux only)")
    return importlib.import_module(f"burnish.ops.triton.{name}")


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Normal numbers that ask for a gradient."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale
    return values.to(dtype).requires_grad_()


def exact(*tensors: Tensor) -> list[Tensor]:
    """The same numbers in float64, as leaves of their own."""
    return [t.detach().double().requires_grad_(t.requires_grad) for t in tensors]


def assert_near(found: Tensor | None, expected: Tensor | None, tolerance: float) -> None:
    """Equal to ``tolerance`` of the largest number, or of 1."""
    assert found is not None and expected is not None and found.shape == expected.shape
    scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    torch.testing.assert_close(
        found.detach().double() / scale, expected.detach().double() / scale, rtol=0, atol=tolerance
    )
