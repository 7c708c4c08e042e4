"""Dropout that keeps no mask: it is a function of a seed and the place of each number, and made again backwards."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.native import kernels
from burnish.ops.native.kernels import Drop, new_drop


def dropout(x: Tensor, rate: float) -> Tensor:
    """``x m / (1 - rate)`` with m = 1 with probability 1 - rate, else 0 (Srivastava et al., 2014), [..., D].

    The seed comes from PyTorch's generator, one number for the whole tensor, so that a pass that is made again under
    the same state has the same mask. Where the compiled kernels cannot be, PyTorch's own dropout is taken: its masks
    differ, and on a processor they are drawn one number after the other.

    Args:
        x: Any tensor.
        rate: Probability with which a number is dropped, from 0 to below 1; 0 gives x itself.
    """
    if not rate:
        return x
    if not kernels.usable(x):
        return F.dropout(x, rate)
    dropped: Tensor = _Dropped.apply(x, new_drop(rate))
    return dropped


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, drop: Drop) -> Tensor:
        ctx.drop = drop
        return kernels.dropout(x.contiguous(), drop)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        return kernels.dropout(upstream.contiguous(), ctx.drop), None
