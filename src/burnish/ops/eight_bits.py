"""A frozen map in 8 bits, as its products read it: forward by rows, backward by columns.

The arithmetic of "int8 mixed precision": both factors of ``x W^T`` and of ``dy W`` are rounded to 8 bits, and all else
stays in bf16 (Wortsman et al., 2023, arXiv:2304.13013, section 2, whose SwitchBack keeps the gradient of weights
exact; frozen ones have none). Deviations: a row of x or dy has a scale for each 64 numbers and not one alone, since
features of a few large numbers would take the digits of all others (Dettmers et al., 2022, arXiv:2208.07339); W has one
for each output, forward, and for each input, backward.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from burnish.ops.machine import PRODUCT
from burnish.ops.native import eight_bits as kernels
from burnish.ops.native.eight_bits import Low, Panels, Rows
from burnish.ops.native.low_rank import paired

__all__ = ["EightBits", "Rows", "available", "round_rows"]

available, round_rows = kernels.available, kernels.round_rows


def product_rate() -> float:
    """Measured rate of a product of bf16 rows with a frozen matrix in 8 bits, rounding the rows included, in operations
    per second: the best of five, of the size that ``ops.machine`` measures other formats with."""
    rows, inner, outer = PRODUCT["cpu"]
    x, eight = torch.ones(rows, inner).bfloat16(), EightBits.of(torch.ones(outer, inner).bfloat16())
    times = []
    for _ in range(5):
        began = time.perf_counter()
        eight.forward(round_rows(x))
        times.append(time.perf_counter() - began)
    return 2 * rows * inner * outer / min(times)


@dataclass(frozen=True)
class EightBits:
    """W [O, I] in 8 bits, twice.

    Attributes:
        by_output: What ``x W^T`` reads.
        by_input: What ``dy W`` reads.
    """

    by_output: Panels
    by_input: Panels

    @classmethod
    def of(cls, weight: Tensor) -> EightBits:
        """Round a matrix, bf16 or fp32."""
        return cls(kernels.pack(weight.detach()), kernels.pack(weight.detach().t()))

    @property
    def nbytes(self) -> int:
        """Memory of both."""
        return sum(t.nbytes for panels in (self.by_output, self.by_input) for t in (panels.codes, panels.scales))

    def forward(
        self,
        x: Rows,
        bias: Tensor | None = None,
        inner: Tensor | None = None,
        up: Tensor | None = None,
        scale: float = 1.0,
    ) -> Tensor:
        """``x W^T + b + s inner up^T``, [N, O].

        Args:
            x: Rows of the input.
            bias: b [O].
            inner: [N, R], with ``up`` [O, R]: a low-rank update of the same input.
            up: Its second matrix, bf16 or fp32.
            scale: s.
        """
        low = Low(inner, paired(up.t(), scale, kernels.PANEL)) if inner is not None and up is not None else None
        bias = bias.to(torch.bfloat16) if bias is not None else None
        return kernels.product(x, self.by_output, low, bias)

    def backward(
        self, dy: Rows, low: Tensor | None = None, down: Tensor | None = None, into: Tensor | None = None
    ) -> Tensor:
        """``dy W + low down``, [N, I], added to ``into`` where it is given; low [N, R], down [R, I]."""
        beside = Low(low, paired(down, 1.0, kernels.PANEL)) if low is not None and down is not None else None
        return kernels.product(dy, self.by_input, beside, into=into)
