"""Averages of checkpoints of one training (stochastic weight averaging, Izmailov et al., 2018, arXiv:1803.05407)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from burnish.core.errors import UserError


def mean_of(states: Sequence[Mapping[str, Tensor]], names: Sequence[str] = ()) -> dict[str, Tensor]:
    """The mean of each tensor over some states, summed in fp64 and rounded once to its format.

    Args:
        states: Tensors by name, the same names and shapes in all.
        names: What the states are called, for messages.

    Raises:
        UserError: There is none, or they do not fit together.
    """
    if not states:
        raise UserError("there is no checkpoint to average", fix="train with a larger `checkpoint.keep`")
    first = states[0]
    for number, state in enumerate(states):
        odd = sorted(first.keys() ^ state.keys()) or [n for n in first if first[n].shape != state[n].shape]
        if odd:
            called = names[number] if number < len(names) else f"number {number + 1}"
            raise UserError(
                f"the checkpoints do not fit together: {called} differs in `{odd[0]}`",
                fix="average checkpoints of one stage of one run (`--last` with a smaller number)",
            )
    return {name: _mean([state[name] for state in states]) for name in first}


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1 or not tensors[0].is_floating_point():
        return tensors[-1].clone()
    total = torch.zeros_like(tensors[0], dtype=torch.float64)
    for tensor in tensors:
        total += tensor
    return (total / len(tensors)).to(tensors[0].dtype)
