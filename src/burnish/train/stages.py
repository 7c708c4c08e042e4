"""Training in stages: what is trained at an update, and how fast, as pure functions of the update's number.

A run without stages is a run of one. Since nothing is kept but the number of the update, a checkpoint resumes inside
any stage; the optimiser's moments of a parameter wait while it is not trained.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.optim.config import OptimConfig
from burnish.optim.schedule import learning_rate_factor
from burnish.train.stage_config import StageConfig

Named = Sequence[tuple[str, nn.Parameter]]
Rate = tuple[float, str]


@dataclass(frozen=True)
class Stage:
    """One stage.

    Attributes:
        label: What it is called.
        begin: Its first update.
        end: The update behind its last one.
        names: The parameters that are trained.
        config: Schedule and warm-up.
        peak: Peak learning rate, and where it comes from.
        scales: Factor on the learning rate by parameter name, 1 where a name is absent.
    """

    label: str
    begin: int
    end: int
    names: frozenset[str]
    config: OptimConfig
    peak: Rate
    scales: Mapping[str, float] = field(default_factory=dict)

    def learning_rate(self, step: int) -> float:
        """Learning rate of an update of this stage, before any factor."""
        return self.peak[0] * learning_rate_factor(step - self.begin, self.end - self.begin, self.config)


@dataclass(frozen=True)
class Stages:
    """The stages of a run, one behind the other."""

    stages: tuple[Stage, ...]

    @classmethod
    def single(
        cls,
        names: Iterable[str],
        config: OptimConfig,
        peak: Rate,
        total: int,
        scales: Mapping[str, float] | None = None,
    ) -> Stages:
        """One stage that trains all of these parameters."""
        return cls((Stage("all", 0, total, frozenset(names), config, peak, scales or {}),))

    def __len__(self) -> int:
        return len(self.stages)

    def number(self, step: int) -> int:
        """Number of the stage that an update belongs to, counted from 0; the last one's behind the end."""
        return next((i for i, stage in enumerate(self.stages) if step < stage.end), len(self.stages) - 1)

    def at(self, step: int) -> Stage:
        """The stage that an update belongs to."""
        return self.stages[self.number(step)]

    def learning_rate(self, step: int) -> float:
        """Learning rate of an update, before any factor."""
        return self.at(step).learning_rate(step)

    def scales(self) -> dict[str, tuple[float, ...]]:
        """Factors on the learning rate by parameter name, one for each stage."""
        names = dict.fromkeys(name for stage in self.stages for name in stage.scales)
        return {name: tuple(stage.scales.get(name, 1.0) for stage in self.stages) for name in names}

    def enter(self, step: int, trainable: Named, optimizer: torch.optim.Optimizer) -> Stage:
        """Make ready for an update's stage: gradients for what it trains, and the factors of its rates."""
        number, stage = self.number(step), self.at(step)
        for name, parameter in trainable:
            parameter.requires_grad_(name in stage.names)
        for group in optimizer.param_groups:
            if "stage_scales" in group:
                group["rate_scale"] = group["stage_scales"][number]
        return stage

    def describe(self) -> list[dict[str, Any]]:
        """The stages as JSON values."""
        return [
            {
                "name": s.label,
                "begin": s.begin,
                "end": s.end,
                "tensors": len(s.names),
                "learning_rate": s.peak[0],
                "reason": s.peak[1],
            }
            for s in self.stages
        ]


def total_steps(stages: Sequence[StageConfig], steps_per_epoch: int) -> int:
    """Updates of all stages together."""
    return sum(length(stage, steps_per_epoch) for stage in stages)


def length(stage: StageConfig, steps_per_epoch: int) -> int:
    """Updates of one stage."""
    # round() first: 0.1 * 30 is 3.0000000000000004 and must not become 4
    return stage.steps or math.ceil(round((stage.num_epochs or 0.0) * steps_per_epoch, 9))


@dataclass(frozen=True)
class Trained:
    """What a run trains, for its stages to choose from.

    Attributes:
        names: Every trained parameter.
        entries: Parameters by the entry of `adapter` that they belong to.
        rates: Default peak learning rate of each entry, with its reason.
        scales: Factor on the learning rate by parameter name, from methods and heads.
        head_scales: How much faster than its peak a stage with this entry trains the head of the task.
    """

    names: tuple[str, ...]
    entries: Mapping[str, frozenset[str]]
    rates: Mapping[str, Rate]
    scales: Mapping[str, float]
    head_scales: Mapping[str, float] = field(default_factory=dict)

    def chosen(self, stage: StageConfig) -> frozenset[str]:
        """The parameters that a stage names.

        Raises:
            UserError: A name matches nothing.
        """
        chosen: set[str] = set()
        for target in stage.targets:
            found = self._matching(target)
            if not found:
                known = {"all", *self.entries} | ({"head"} if self._head() else set())
                raise UserError(
                    f"`train: {target}` of stage `{stage.label}` matches nothing that this run trains",
                    where="stages",
                    fix=suggestion(target, known) + ", a part of a parameter's name, or `re:PATTERN`",
                )
            chosen |= found
        return frozenset(chosen)

    def _head(self) -> frozenset[str]:
        return frozenset(name for name in self.names if name.startswith("classifier."))

    def _matching(self, target: str) -> frozenset[str]:
        if target == "all":
            return frozenset(self.names)
        if target == "head":
            return self._head()
        if target in self.entries:
            return self.entries[target]
        return frozenset(name for name in self.names if _matches(target, name))

    def peak(self, names: frozenset[str], config: OptimConfig) -> tuple[Rate, dict[str, float]]:
        """Peak learning rate of a stage, and the factors by parameter: each entry learns at its method's own rate.

        A rate that is given holds for all of them. Without one the peak is the lowest of the entries' defaults.
        """
        present = {key: rate for key, rate in self.rates.items() if self.entries[key] & names} or dict(self.rates)
        scales = dict(self.scales)
        if self.head_scales:
            # the peak is the lowest rate among the entries, so the factor of the one with the lowest rates suits it
            scales |= dict.fromkeys(self._head(), max(self.head_scales[key] for key in present))
        if config.learning_rate is not None:
            return (config.learning_rate, "the recipe says so"), scales
        key = min(present, key=lambda k: present[k][0])
        peak, reason = present[key]
        for other, (rate, _) in present.items():
            for name in self.entries[other] if rate != peak else ():
                scales[name] = scales.get(name, 1.0) * rate / peak
        if any(rate != peak for rate, _ in present.values()):
            listed = ", ".join(f"{k} {rate:g}" for k, (rate, _) in present.items())
            reason = f"each method learns at its own rate ({listed}); {key}: {reason}"
        return (peak, reason), scales


def plan_stages(
    configs: Sequence[StageConfig], base: OptimConfig, trained: Trained, total: int, steps_per_epoch: int
) -> Stages:
    """The stages of a run; one of everything where the recipe names none.

    Raises:
        UserError: A stage names nothing that is trained, or something is trained by no stage.
    """
    everything = frozenset(trained.names)
    if not configs:
        peak, scales = trained.peak(everything, base)
        return Stages.single(everything, base, peak, total, scales)
    made, begin = [], 0
    for config in configs:
        names, own = trained.chosen(config), config.over(base)
        peak, scales = trained.peak(names, own)
        end = begin + length(config, steps_per_epoch)
        made.append(Stage(config.label, begin, end, names, own, peak, scales))
        begin = end
    idle = sorted(everything - frozenset().union(*(stage.names for stage in made)))
    if idle:
        raise UserError(
            f"{len(idle)} parameters of the recipe's adapters are trained in no stage, such as `{idle[0]}`",
            where="stages",
            fix="name them in a stage, or leave their entry out of `adapter`",
        )
    return Stages(tuple(made))


def _matches(target: str, name: str) -> bool:
    if target.startswith("re:"):
        try:
            return re.search(target.removeprefix("re:"), name) is not None
        except re.error as error:
            raise UserError(f"`{target}` is not a pattern: {error}", where="stages", fix="mend it") from None
    return f".{target}." in f".{name}."
