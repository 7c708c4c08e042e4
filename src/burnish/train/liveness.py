"""Does everything that is to be trained really train? Answered by the first updates, at no cost afterwards."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from burnish.core.errors import TrainingStopped

UPDATES = 3
"""Updates that the answer takes. LoRA's A has no gradient in the first one, because B is zero there."""

Named = Sequence[tuple[str, nn.Parameter]]


class Liveness:
    """Watches every trained tensor over the first updates: it must have had a gradient, and must have moved.

    Args:
        trainable: Names and parameters that are trained.
        updates: Updates that the run makes in all; a run of one update is not judged.
    """

    def __init__(self, trainable: Named, updates: int) -> None:
        self.trainable = trainable
        self.left = min(UPDATES, updates) if updates > 1 else 0
        self._before = [fingerprint(p) for _, p in trainable] if self.left else []
        self._had_gradient = [False] * len(trainable)

    def saw_gradients(self) -> None:
        """Take note of which tensors have a gradient now; called between the backward pass and the update."""
        if not self.left:
            return
        for i, (_, parameter) in enumerate(self.trainable):
            if not self._had_gradient[i]:
                self._had_gradient[i] = parameter.grad is not None and bool(parameter.grad.any())

    def updated(self, learning_rate: float) -> None:
        """Count an update that was made, and judge after the last of the first ones.

        Raises:
            TrainingStopped: A tensor never had a gradient, or never moved.
        """
        if not self.left or not learning_rate:
            return
        self.left -= 1
        if not self.left:
            self._judge()

    def _judge(self) -> None:
        names = [name for name, _ in self.trainable]
        dead = [name for name, had in zip(names, self._had_gradient, strict=True) if not had]
        if dead:
            raise TrainingStopped(
                f"{len(dead)} of {len(names)} trained tensors had no gradient in the first updates",
                where=_listed(dead),
                fix="nothing of the loss reaches them: leave them out with `adapter.targets`, or see what cuts it",
            )
        after = [fingerprint(p) for _, p in self.trainable]
        still = [name for name, a, b in zip(names, self._before, after, strict=True) if a == b]
        if still:
            raise TrainingStopped(
                f"{len(still)} of {len(names)} trained tensors did not move in the first updates",
                where=_listed(still),
                fix="raise `train.learning_rate`; updates below the resolution of the weights are lost",
            )


@torch.no_grad()
def fingerprint(tensor: Tensor) -> tuple[float, float]:
    """Two numbers that change when any element does: ``sum(x)`` and ``sum(x * cos(index))``, in float64.

    A single sum misses changes that cancel, such as those of AdamW's first step, which moves every weight by as much.
    """
    flat = tensor.detach().reshape(-1).double()
    wave = torch.arange(flat.numel(), device=flat.device, dtype=torch.float64).cos_()
    return float(flat.sum()), float(flat @ wave)


def _listed(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
