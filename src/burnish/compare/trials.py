"""The runs of a comparison: every variant with every seed, sized to one budget, as recipes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from burnish.compare.keys import key_of
from burnish.compare.variants import Variant, configured, recipe_of
from burnish.core.errors import UserError
from burnish.models.shapes import shapes_of
from burnish.plan.budget import TOLERANCE, default_shares, divide, fitted
from burnish.train.config import RunConfig
from burnish.train.distributed.refusals import refuse_several_processes

LONGEST = 100
"""Most virtual tokens of a method that is sized alone: Lester et al. (2021, arXiv:2104.08691, section 3.2) found
marginal gains beyond 20 and a slight harm beyond 100, and every one makes every row longer."""


@dataclass(frozen=True)
class Trial:
    """One run.

    Attributes:
        variant: What is trained.
        seed: Its seed.
        recipe: The values of its recipe.
        folder: Where its run is written.
    """

    variant: Variant
    seed: int
    recipe: dict[str, Any]
    folder: Path

    @property
    def record(self) -> Path:
        """The file that says that it is done, and of which recipe."""
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def key(self) -> str:
        """A hash of the recipe: a finished run counts only for the recipe that it was made from."""
        return key_of(configured(self.recipe, self.variant.label))

    def with_steps(self, steps: int) -> Trial:
        """The same run with a fixed number of updates."""
        train = {**self.recipe["train"], "max_steps": steps}
        return replace(self, recipe={**self.recipe, "train": train})


@dataclass(frozen=True)
class Prepared:
    """One variant, ready to be run.

    Attributes:
        variant: The variant.
        trials: Its runs, one for each seed.
        refused: Why there are none.
        sized: What was chosen to meet the budget, for people; empty without one.
    """

    variant: Variant
    trials: tuple[Trial, ...] = ()
    refused: str = ""
    sized: str = ""


@dataclass(frozen=True)
class Wanted:
    """What is to be compared.

    Attributes:
        config: The recipe.
        variants: The lines of the comparison.
        seeds: How many runs each variant gets.
        output: Folder of the comparison.
        budget: Trained parameters of each variant; None leaves each method at its own size.
        minutes: Training time of all runs together; None trains as long as the recipe says.
        timed: Whether forward passes are timed after a run.
    """

    config: RunConfig
    variants: Sequence[Variant]
    seeds: int
    output: Path
    budget: int | None = None
    minutes: float | None = None
    timed: bool = True

    @property
    def runs(self) -> Path:
        """Where the run folders are."""
        return self.output / "runs"

    @property
    def seconds_each(self) -> float | None:
        """Training time of one run."""
        return self.minutes * 60 / (len(self.variants) * self.seeds) if self.minutes else None


def prepare(wanted: Wanted) -> list[Prepared]:
    """The runs of every variant; one that does not fit the model or the recipe says why instead.

    Raises:
        UserError: The recipe is for several processes.
    """
    refuse_several_processes(wanted.config, "a comparison")
    return [_prepare(wanted, variant) for variant in wanted.variants]


def _prepare(wanted: Wanted, variant: Variant) -> Prepared:
    try:
        values = recipe_of(wanted.config, variant)
        config, sized = configured(values, variant.label), ""
        if wanted.budget is not None:
            values["adapter"], sized = _within(config, wanted.budget)
        trials = tuple(_trial(wanted, variant, values, seed) for seed in range(wanted.seeds))
        for trial in trials:
            configured(trial.recipe, variant.label)
    except UserError as error:
        return Prepared(variant, refused=reason(error.what, error.fix))
    return Prepared(variant, trials, sized=sized)


def reason(what: str, fix: str = "") -> str:
    """A refusal on one line."""
    text = " ".join(what.split())
    return f"{text} ({fix})" if fix else text


def _within(config: RunConfig, budget: int) -> tuple[Any, str]:
    """The adapter section at the size nearest to a budget, and what was chosen."""
    model = shapes_of(config.model, headless=config.classifies)
    given: Any = config.adapter
    if isinstance(given, (list, tuple)) and len(given) > 1:
        plan = divide(model, list(given), default_shares([one.method for one in given]), budget)
        return plan.adapter(), ", ".join(f"{line.config.method} {line.size}" for line in plan.lines)
    one = given[0] if isinstance(given, (list, tuple)) else given
    chosen, parameters, size = fitted(one, model, budget, LONGEST)
    values = {"method": chosen.method, **chosen.model_dump(mode="json", exclude_unset=True)}
    if not size:
        return values, "no size of its own"
    off = parameters / budget - 1
    nearest = f", the nearest ({off:+.0%})" if abs(off) > TOLERANCE else ""
    return values, f"{size}{nearest}"


def _trial(wanted: Wanted, variant: Variant, values: dict[str, Any], number: int) -> Trial:
    config = wanted.config
    data = dict(values["data"])
    split = dict(data.get("split") or {})
    if split.get("seed") is None:
        split["seed"] = config.seed  # the same held-out rows for every seed, so that rows can be paired
    name = f"{variant.slug}-seed{number}"
    recipe = {
        **values,
        "name": name,
        "output": str(wanted.runs),
        "seed": config.seed + number,
        "data": {**data, "split": split},
        "evaluate": {**values.get("evaluate", {}), "samples": 0, **({"retention": "none"} if wanted.timed else {})},
        "checkpoint": {"keep": 1, **values.get("checkpoint", {})},
    }
    return Trial(variant, number, recipe, wanted.runs / name)
