"""Two numbers that tell whether a tensor changed, found in little memory."""

from __future__ import annotations

import torch
from torch import Tensor

PIECE = 1 << 20
"""Numbers of a tensor that are looked at together: 8 MiB in float64, and as much for what they are multiplied with."""


@torch.no_grad()
def fingerprint(tensor: Tensor) -> tuple[float, float]:
    """Two numbers that change when any element does: ``sum(x)`` and ``sum(x * cos(index))``, in float64.

    A single sum misses changes that cancel, such as those of AdamW's first step, which moves every weight by as much.
    The tensor is read piece by piece: copies of a whole table of embeddings would be the peak of a run's memory.
    """
    flat = tensor.detach().reshape(-1)
    plain, waved = 0.0, 0.0
    for start in range(0, flat.numel(), PIECE):
        piece = flat[start : start + PIECE].double()
        wave = torch.arange(start, start + piece.numel(), device=flat.device, dtype=torch.float64).cos_()
        plain, waved = plain + float(piece.sum()), waved + float(piece @ wave)
    return plain, waved
