"""The exponential moving average of the trained weights: a second set of them that follows the first one slowly.

After an update that is counted,

    a <- d a + (1 - d) w,

from a = w at the beginning (Polyak and Juditsky, 1992; Tarvainen and Valpola, 2017, arXiv:1703.01780, equation 2). It
averages over about 1 / (1 - d) counted updates, and costs one copy of what is trained.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from burnish.checkpoint.config import EmaConfig

PREFIX = "ema."
"""In front of a parameter's name, where a checkpoint keeps its average."""


class Ema:
    """The averages of some parameters.

    Args:
        config: Decay and cadence.
        trained: Names and parameters; where they are now is where the averages begin.
    """

    def __init__(self, config: EmaConfig, trained: Sequence[tuple[str, nn.Parameter]]) -> None:
        self.config, self.trained = config, list(trained)
        self.averages = {name: parameter.detach().clone() for name, parameter in self.trained}

    @property
    def buffers(self) -> list[tuple[str, Tensor]]:
        """The averages as checkpoints keep them."""
        return [(PREFIX + name, tensor) for name, tensor in self.averages.items()]

    @torch.no_grad()
    def observe(self, step: int) -> None:
        """Follow the weights after update ``step``, counted from 1."""
        if step % self.config.every:
            return
        decay = self.config.decay
        for name, parameter in self.trained:
            self.averages[name].mul_(decay).add_(parameter.detach(), alpha=1 - decay)

    @torch.no_grad()
    def put_(self) -> None:
        """Put the averages in the place of the weights."""
        for name, parameter in self.trained:
            parameter.copy_(self.averages[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The averages in the place of the weights as long as the context lasts; the weights are back to the bit."""
        kept = {name: parameter.detach().clone() for name, parameter in self.trained}
        self.put_()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self.trained:
                    parameter.copy_(kept[name])


def averaged(groups: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The averages of a checkpoint by the names of their parameters; empty where it keeps none."""
    kept = groups.get("buffers", {})
    return {name.removeprefix(PREFIX): tensor for name, tensor in kept.items() if name.startswith(PREFIX)}
