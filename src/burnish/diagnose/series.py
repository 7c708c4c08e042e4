"""What a run recorded, as the detectors see it, whichever tool has written it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from burnish.diagnose.statistics import Floats

Line = Mapping[str, Any]

BLOWN_UP = 1.5
"""Times the first loss that the median of the first three has reached where a rate was far too high from the start."""


@dataclass(frozen=True)
class Facts:
    """What is known of a run besides its curves; None where it is not.

    Attributes:
        total: Updates that are planned.
        chance: Loss of guessing: the entropy of the classes, or log V for a text.
        uniform: Loss of an even guess: log K for K classes, or log V.
        text: Whether tokens are learnt, by a model that can write already.
        max_grad_norm: The norm that gradients are clipped to.
        batch_size: Rows per update.
        rate: Peak learning rate.
        rows: The training rows of an update, counted from 1.
    """

    total: int | None = None
    chance: float | None = None
    uniform: float | None = None
    text: bool = False
    max_grad_norm: float | None = None
    batch_size: int | None = None
    rate: float | None = None
    rows: Callable[[int], Sequence[int]] | None = None


@dataclass(frozen=True)
class Series:
    """The curves of a run. N recorded updates.

    Attributes:
        steps: [N] number of each update, from 1.
        loss: [N] training loss, in nats.
        grad_norm: [N] global norm of the gradient before clipping; NaN where it is not known.
        epoch: [N] passes over the rows done; NaN where it is not known.
        validation: Lines with ``step`` and ``loss``.
        gradients: Lines of what `train.gradients` measured.
        facts: What else is known.
        broken: Updates whose loss is no number, or infinite.
    """

    steps: Floats
    loss: Floats
    grad_norm: Floats
    epoch: Floats
    validation: tuple[Line, ...] = ()
    gradients: tuple[Line, ...] = ()
    facts: Facts = field(default_factory=Facts)
    broken: tuple[int, ...] = ()

    @classmethod
    def of(cls, log: Iterable[Line], facts: Facts | None = None) -> Series:
        """The series of a log's lines; of two lines for one step the later one holds."""
        kinds: dict[str, dict[int, Line]] = {"train": {}, "validation": {}, "gradients": {}}
        for line in log:
            if line.get("kind") in kinds and isinstance(line.get("step"), (int, float)):
                kinds[line["kind"]][int(line["step"])] = line
        train, validation, gradients = (
            [lines[step] for step in sorted(lines)]
            for lines in (kinds["train"], kinds["validation"], kinds["gradients"])
        )
        broken = tuple(int(line["step"]) for line in train if "loss" in line and _number(line["loss"]) is None)
        train = [line for line in train if _number(line.get("loss")) is not None]
        return cls(
            steps=_column(train, "step"),
            loss=_column(train, "loss"),
            grad_norm=_column(train, "grad_norm"),
            epoch=_column(train, "epoch"),
            validation=tuple(line for line in validation if _number(line.get("loss")) is not None),
            gradients=tuple(gradients),
            facts=facts or Facts(),
            broken=broken,
        )

    def __len__(self) -> int:
        return len(self.loss)

    def until(self, step: int) -> Series:
        """What was known after an update."""
        n = int(np.searchsorted(self.steps, step, side="right"))
        return replace(
            self,
            steps=self.steps[:n],
            loss=self.loss[:n],
            grad_norm=self.grad_norm[:n],
            epoch=self.epoch[:n],
            validation=tuple(line for line in self.validation if line["step"] <= step),
            gradients=tuple(line for line in self.gradients if line["step"] <= step),
            broken=tuple(one for one in self.broken if one <= step),
        )

    def since(self, step: int) -> Series:
        """What happened behind an update, as a run of its own."""
        kept = self.steps > step
        return replace(
            self,
            steps=self.steps[kept],
            loss=self.loss[kept],
            grad_norm=self.grad_norm[kept],
            epoch=self.epoch[kept],
            validation=tuple(line for line in self.validation if line["step"] > step),
            gradients=tuple(line for line in self.gradients if line["step"] > step),
            broken=tuple(one for one in self.broken if one > step),
        )

    @cached_property
    def start(self) -> float:
        """The loss at the beginning: the median of the first three, or the first where the second blew up."""
        if not len(self):
            return float("nan")
        first, middle = float(self.loss[0]), float(np.median(self.loss[:3]))
        return first if middle > BLOWN_UP * first > 0 else middle

    @property
    def reference(self) -> float:
        """The loss that learning is held against: guessing for classes, the beginning for texts."""
        chance = self.facts.chance
        return chance if chance is not None and not self.facts.text else self.start

    @property
    def progress(self) -> float:
        """Share of the planned updates that are done; 1 where nothing is planned."""
        last = float(self.steps[-1]) if len(self) else 0.0
        return last / self.facts.total if self.facts.total else 1.0

    @cached_property
    def scores(self) -> Floats:
        """Validation losses in their order."""
        return _column(self.validation, "loss")

    def step(self, index: int) -> int:
        """The number of the update at a place."""
        return int(self.steps[index])

    def measured(self, name: str) -> list[tuple[int, Any]]:
        """Step and value of everything measured under a name."""
        return [(int(line["step"]), line[name]) for line in self.gradients if line.get(name) is not None]


def _number(value: Any) -> float | None:
    known = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    return float(value) if known else None


def _column(lines: Sequence[Line], name: str) -> Floats:
    values = [_number(line.get(name)) for line in lines]
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
