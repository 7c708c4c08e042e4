"""What each device holds when several train together: nothing, moments, gradients or weights are divided among them.

With N processes, of weights W, gradients G and moments O, a device keeps (Rajbhandari et al., 2020, section 5)

    ddp     W + 2 G + O           each gradient once more in the buckets that are summed
    zero1   W + G + O / N
    zero2   W + G / N + O / N
    zero3   W / N + G / N + O / N    and two whole layers at a time: one in use, one on its way
    fsdp2   as zero3 (Zhao et al., 2023)

Offloading moves the moments, or also the divided weights, into the host's memory. Adapters are divided as the rest is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from burnish.core.engines import OFFLOADS, EngineName, OffloadName, able
from burnish.core.errors import UserError
from burnish.plan.footprint import Footprint


@dataclass(frozen=True)
class Engine:
    """How a run is divided among devices.

    Attributes:
        name: Who divides it.
        processes: Devices, one process each.
        offload: What waits in the host's memory; ``parameters`` are the moments too.
        half: What of fp32 travels in bf16: ``gradients``, ``weights`` that are trained.
    """

    name: EngineName = "none"
    processes: int = 1
    offload: OffloadName = "none"
    half: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.name not in get_args(EngineName) or self.offload not in get_args(OffloadName):
            raise UserError(
                f"there is no engine `{self.name}` with offload `{self.offload}`",
                where="--engine",
                fix=f"engines: {', '.join(get_args(EngineName))}; offload: {', '.join(get_args(OffloadName))}",
            )
        if self.processes < 1 or (self.name == "none" and self.processes > 1):
            raise UserError(
                f"{self.processes} processes need an engine that divides the work among them",
                where="--processes",
                fix="name one with `--engine`: ddp, fsdp2, zero1, zero2 or zero3",
            )
        if self.offload not in OFFLOADS[self.name]:
            raise UserError(
                f"`{self.name}` cannot keep `{self.offload}` in the host's memory",
                where="--offload",
                fix=f"name an engine that can: {able(self.offload)}",
            )


@dataclass(frozen=True)
class Share:
    """What one device and, for all devices together, their host hold.

    Attributes:
        device: The footprint of one device.
        gathered: Bytes of whole layers that are there for a moment.
        host: Bytes in the host's memory.
    """

    device: Footprint
    gathered: int = 0
    host: int = 0


_Rule = Callable[[Footprint, int], Share]


def _part(size: int, processes: int) -> int:
    return math.ceil(size / processes)


def _doubled(whole: Footprint, n: int) -> Share:
    return Share(replace(whole, gradients=2 * whole.gradients, working=whole.working + whole.gradients))


def _moments(whole: Footprint, n: int) -> Share:
    return Share(replace(whole, optimizer=_part(whole.optimizer, n)))


def _gradients(whole: Footprint, n: int) -> Share:
    less = whole.gradients - _part(whole.gradients, n)
    working = max(0, whole.working - less)
    return Share(
        replace(
            whole,
            optimizer=_part(whole.optimizer, n),
            gradients=whole.gradients - less,
            working=working,
        )
    )


def _weights(whole: Footprint, n: int) -> Share:
    divided = _gradients(whole, n).device
    weights, adapters = _part(whole.weights, n), _part(whole.adapters, n)
    return Share(replace(divided, weights=weights, adapters=adapters), gathered=2 * whole.largest if n > 1 else 0)


_RULES: Mapping[str, _Rule] = {
    "none": lambda whole, n: Share(whole),
    "ddp": _doubled,
    "zero1": _moments,
    "zero2": _gradients,
    "zero3": _weights,
    "fsdp2": _weights,
}


def share_of(whole: Footprint, engine: Engine) -> Share:
    """What a device holds of a run under an engine."""
    share = _RULES[engine.name](whole, engine.processes)
    if engine.offload == "none":
        return share
    device, host = share.device, engine.processes * share.device.optimizer
    if engine.name.startswith("zero"):  # the host makes the update, from gradients that lie there too
        host += engine.processes * device.gradients
    left = replace(device, optimizer=0)
    if engine.offload == "parameters":
        host += engine.processes * (device.weights + device.adapters)
        return Share(replace(left, weights=0, adapters=0), 2 * whole.largest, host)
    return Share(left, share.gathered, host)
