"""An optimiser's state as named tensors, so that it is stored without pickle and found again by parameter name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from burnish.core.errors import UserError

Named = Sequence[tuple[str, nn.Parameter]]


def state_tensors(optimizer: torch.optim.Optimizer, named: Named) -> dict[str, Tensor]:
    """The optimiser's tensors as ``{"exp_avg:model.layers.0.weight": tensor}``.

    Raises:
        TypeError: The optimiser keeps something other than tensors and numbers.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in named:
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, (int, float)):
                value = torch.tensor(float(value), dtype=torch.float64)
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
        # `step` lives on the CPU unless the optimiser is capturable; the moments live with their parameter
        device = torch.device("cpu") if value.dim() == 0 else parameter.device
        optimizer.state[parameter][key] = value.to(device)
