"""An optimiser's state as named tensors, so that it is stored without pickle and found again by parameter name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from burnish.core.errors import UserError

Named = Sequence[tuple[str, nn.Parameter]]

NUMBERS: dict[str, type[int] | type[float]] = {"int": int, "float": float}
"""Kinds of plain numbers that an optimiser may count with; each is stored as a tensor, its key marked by the kind."""


def state_tensors(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """The optimiser's tensors as ``{"exp_avg:model.layers.0.weight": tensor}``; a number as ``{"step!int:..."}``.

    Raises:
        TypeError: The optimiser keeps something other than tensors and numbers.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in named:
        for key, value in optimizer.state.get(parameter, {}).items():
            if type(value) in NUMBERS.values():
                key = f"{key}!{type(value).__name__}"
                value = torch.tensor(value, dtype=torch.int64 if type(value) is int else torch.float64)
            if not isinstance(value, Tensor):
                raise TypeError(f"optimizer state {key!r} of {name} is a {type(value).__name__}, not a tensor")
            tensors[f"{key}:{name}"] = value
    return tensors


def load_state_tensors(optimizer: torch.optim.Optimizer, named: Named, tensors: Mapping[str, Tensor]) -> None:
    """Put ``state_tensors`` back, bit for bit and on each parameter's device.

    Raises:
        UserError: The tensors name a parameter that is not trained now: the checkpoint belongs to another run.
    """
    by_name = dict(named)
    for full, value in tensors.items():
        key, _, name = full.partition(":")
        if name not in by_name:
            raise UserError(
                f"the checkpoint holds optimiser state for `{name}`, which this run does not train",
                fix="resume with the recipe that the run was started with",
            )
        parameter = by_name[name]
        key, _, kind = key.partition("!")
        optimizer.state[parameter][key] = NUMBERS[kind](value.item()) if kind else _placed(optimizer, parameter, value)


def _placed(optimizer: torch.optim.Optimizer, parameter: nn.Parameter, value: Tensor) -> Tensor:
    """The tensor where the optimiser keeps it."""
    buffer = getattr(optimizer, "get_state_buffer", None)
    if buffer is not None and value.shape == parameter.shape:
        # An optimiser of bitsandbytes has memory of its own for its moments, which a paged one can move to the host.
        return buffer(parameter, dtype=value.dtype).copy_(value)  # type: ignore[no-any-return]
    # `step` lives on the CPU unless the optimiser is capturable; the moments live with their parameter
    return value.to(torch.device("cpu") if value.dim() == 0 else parameter.device)
