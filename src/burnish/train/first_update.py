"""Is the first update the one that was configured? Recomputed for one tensor, in float64, from the formula of AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.core.errors import TrainingStopped
from burnish.train.distributed.engine import Engine

RELATIVE = 0.02
"""Tolerated share of the learning rate. What goes wrong in practice is a factor: a schedule that was overwritten, a
rate of another group, a decay that is not decoupled."""

EIGHT_BIT = ("AdamW8bit", "PagedAdamW8bit")
"""Classes of bitsandbytes whose first update is AdamW's too. They round their moments after the update has been made of
them, and apply the decay after it and not before: a difference of rate * decay of a learning rate."""

Named = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class FirstUpdate:
    """What one tensor is to become by the first update of AdamW (Loshchilov and Hutter, 2019, algorithm 2, t = 1).

    With bias correction the moments of the first update are g and g^2, so

        w' = w - rate * (decay * w + g / (|g| + eps)).

    Attributes:
        name: The tensor.
        parameter: The tensor itself, as it is now.
        expected: w', in float64.
        rate: The learning rate that the schedule gives.
        engine: Says what of the tensor lies in this process, which is what is compared.
    """

    name: str
    parameter: nn.Parameter
    expected: Tensor
    rate: float
    engine: Engine

    def judge(self) -> None:
        """Compare after the update.

        Raises:
            TrainingStopped: The tensor moved otherwise than the configured learning rate and decay say.
        """
        now = self.engine.local(self.parameter.detach()).double()
        rounding = 4 * torch.finfo(self.parameter.dtype).eps * self.expected.abs().max()
        difference = float((now - self.expected).abs().max())
        if difference <= RELATIVE * self.rate + float(rounding):
            return
        raise TrainingStopped(
            f"the first update is not the configured one: a weight is off by {difference / self.rate:.2g} learning "
            f"rates ({self.rate:.3g})",
            where=self.name,
            fix="something changes the optimiser behind the schedule: a callback, a wrapper, state from elsewhere",
        )


def foresee(
    optimizer: torch.optim.Optimizer, trainable: Named, rate: float, engine: Engine | None = None
) -> FirstUpdate | None:
    """Take note of the smallest tensor that has a gradient, before the optimiser's first step.

    Args:
        optimizer: Only AdamW is foreseen, in full and with 8-bit moments.
        trainable: Names and parameters that are trained; their gradients are those the optimiser will see.
        rate: The learning rate that the schedule gives for this update.
        engine: Says what of a tensor lies in this process.

    Returns:
        None where nothing can be foreseen: another optimiser, state from before, no gradient, no rate.
    """
    known = isinstance(optimizer, torch.optim.AdamW) or type(optimizer).__name__ in EIGHT_BIT
    if not known or optimizer.state or not rate:
        return None
    local = (engine or Engine()).local
    live = [(n, p) for n, p in trainable if p.grad is not None and bool(local(p.grad).any())]
    if not live:
        return None
    name, parameter = min(live, key=lambda item: item[1].numel())
    group = next(g for g in optimizer.param_groups if any(p is parameter for p in g["params"]))
    own = rate * group.get("rate_scale", 1.0)
    weight, gradient = local(parameter.detach()).double(), local(parameter.grad).double()  # type: ignore[arg-type]
    step = group["weight_decay"] * weight + gradient / (gradient.abs() + group["eps"])
    return FirstUpdate(name, parameter, weight - own * step, own, engine or Engine())
