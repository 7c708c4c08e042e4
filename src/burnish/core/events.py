"""What the loop tells its callbacks, and what they may ask of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from burnish.core.findings import Finding


@dataclass(frozen=True)
class Stage:
    """A part of the run begins: loading, rendering, evaluating. ``total`` counts its units where they are known."""

    name: str
    total: int | None = None


@dataclass(frozen=True)
class Advanced:
    """The current stage has done so many units."""

    done: int


@dataclass(frozen=True)
class Noticed:
    """A finding came up."""

    finding: Finding


@dataclass(frozen=True)
class Started:
    """The first update is about to run."""

    step: int
    total_steps: int
    total_epochs: float


@dataclass(frozen=True)
class Stepped:
    """One optimiser update is done. ``metrics`` holds loss, grad_norm, learning_rate, tokens, seconds and the like."""

    step: int
    epoch: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """Gradients and updates were looked at, in the update that is now done. ``values`` holds norms and ratios."""

    step: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Evaluated:
    """The validation rows were scored."""

    step: int
    epoch: float
    metrics: dict[str, float]
    improved: bool


@dataclass(frozen=True)
class Retained:
    """Some texts of the retention set were scored. ``metrics`` holds retention, and kl and agreement where they are."""

    step: int
    epoch: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class Saved:
    """A checkpoint is complete on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Finished:
    """The loop ended. ``reason`` is ``completed``, ``early-stopping``, ``interrupted`` or a callback's own word."""

    step: int
    reason: str
    summary: dict[str, Any] = field(default_factory=dict)


Event = Stage | Advanced | Noticed | Started | Stepped | Measured | Evaluated | Retained | Saved | Finished


@dataclass(frozen=True)
class Stop:
    """End the loop after this update."""

    reason: str


@dataclass(frozen=True)
class Save:
    """Write a checkpoint after this update."""


@dataclass(frozen=True)
class Evaluate:
    """Score the validation rows after this update."""


@dataclass(frozen=True)
class LowerRate:
    """Multiply the learning rate of all updates to come by ``factor``."""

    factor: float


Action = Stop | Save | Evaluate | LowerRate
Callback = Callable[[Event], Action | None]
