"""Where trained tensors began: copies that take as little memory as loses nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Anchors:
    """The first values of trained tensors.

    Attributes:
        names: Their names.
        parameters: The tensors, as they are now.
        values: As they were.
    """

    names: tuple[str, ...]
    parameters: tuple[nn.Parameter, ...]
    values: tuple[Tensor, ...]

    @classmethod
    def of(cls, tensors: Sequence[tuple[str, nn.Parameter]], *, offload: bool = False) -> Anchors:
        """Copies of tensors as they are now.

        A tensor whose numbers bf16 holds exactly, as those of most published models are, is kept in it; any other in
        its own format: a rounded anchor would pull at weights that have not moved.

        Args:
            tensors: Names and parameters.
            offload: Keep them in the memory of the host.
        """
        copies = [_compact(p.detach()) for _, p in tensors]
        if offload:
            copies = [copy.cpu() for copy in copies]
        return cls(tuple(n for n, _ in tensors), tuple(p for _, p in tensors), tuple(copies))

    @property
    def bytes(self) -> int:
        """What they take."""
        return sum(v.numel() * v.element_size() for v in self.values)


def _compact(tensor: Tensor) -> Tensor:
    half = tensor.to(torch.bfloat16, copy=True)
    return half if torch.equal(half.to(tensor.dtype), tensor) else tensor.clone()
