"""What adapters do at a host as functions of tensors, for fused layers, which call no module.

Adapters are whatever ``Slot.active`` gives; their attributes say what each of them reads (``adapters/base.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from burnish.models.maps import Beside, Chain

Adapters = Sequence[Any]


def split(host: nn.Module, active: Adapters) -> tuple[Chain | None, Adapters, Chain | None]:
    """What happens ahead of the host's product, the adapters that belong to it, and what happens behind it."""
    ahead = [a for a in active if a.reads_input_only]  # whatever their place: every `before` comes before the host
    rest = [a for a in active if not a.reads_input_only]
    count = len(rest)
    while count and rest[count - 1].reads_output_only:
        count -= 1
    behind = rest[count:]
    first = partial(_ahead, host, ahead) if ahead else None
    return first, rest[:count], partial(_behind, host, behind) if behind else None


def beside_of(host: nn.Module, active: Adapters) -> Beside | None:
    """What adapters do at a module that a fused layer computes itself; None where one does more."""
    kwargs: dict[str, Any] = {}
    residual: list[Any] = []
    behind: list[Any] = []
    adding: dict[str, list[Chain]] = {"normed": [], "parallel": []}
    for adapter in active:
        if adapter.only_adds:
            _, kwargs = adapter.before(host, (), kwargs)
        elif adapter.reads_residual_only:
            residual.append(adapter)
        elif adapter.adds == "normed" or (adapter.adds and not behind):  # added behind what is behind: no known form
            adding[adapter.adds].append(adapter.change)
        elif adapter.reads_output_only:
            behind.append(adapter)
        else:
            return None
    return Beside(
        kwargs,
        residual=partial(_residual, host, residual) if residual else None,
        normed=tuple(adding["normed"]),
        parallel=tuple(adding["parallel"]),
        behind=partial(_behind, host, behind) if behind else None,
    )


def _ahead(host: nn.Module, adapters: Adapters, x: Tensor) -> Tensor:
    for adapter in adapters:
        x = adapter.before(host, (x,), {})[0][0]
    return x


def _residual(host: nn.Module, adapters: Adapters, x: Tensor) -> Tensor:
    for adapter in adapters:
        x = adapter.before(host, (None, x), {})[0][1]
    return x


def _behind(host: nn.Module, adapters: Adapters, output: Tensor) -> Tensor:
    for adapter in adapters:
        output = adapter.after(host, (), {}, output)
    return output
