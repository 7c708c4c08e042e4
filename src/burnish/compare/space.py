"""The settings that a sweep tries: learning rates, batch sizes and epochs, every one with every other."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from burnish.compare.variants import Variant
from burnish.core.errors import UserError
from burnish.train.config import RunConfig

RATE, BATCH, EPOCHS = "train.learning_rate", "train.batch_size", "train.num_epochs"
NAMES = {RATE: "rate", BATCH: "batch", EPOCHS: "epochs"}
SPACING = 2.0
"""Factor between neighbouring rates that are chosen around the suggestion of a range test."""
AROUND = (1, 2, 3)
"""Their places, in powers of ``SPACING``: between the suggestion and where the loss turned, some ten times higher."""

EXAMPLES = {
    "--rates": "1e-4,3e-4,1e-3",
    "--epochs": "1,2,4",
    "--target": "0.8,0.85",
    "--sizes": "250,500,1000,2000,4000",
}


@dataclass(frozen=True)
class Candidate:
    """One combination of settings.

    Attributes:
        levels: The value of each setting, in the order of ``Space.keys``.
        variant: The same as a change of the recipe.
    """

    levels: tuple[float, ...]
    variant: Variant


@dataclass(frozen=True)
class Space:
    """What is tried.

    Attributes:
        rates: Learning rates, ascending.
        batch_sizes: Rows of an update; empty leaves the recipe's.
        epochs: Passes; empty leaves the recipe's.
    """

    rates: tuple[float, ...]
    batch_sizes: tuple[float, ...] = ()
    epochs: tuple[float, ...] = ()

    @property
    def levels(self) -> dict[str, tuple[float, ...]]:
        """The values of each setting that is tried."""
        given = {RATE: self.rates, BATCH: self.batch_sizes, EPOCHS: self.epochs}
        return {key: values for key, values in given.items() if values}

    def candidates(self) -> list[Candidate]:
        """Every combination."""
        keys = list(self.levels)
        return [
            Candidate(levels, _variant(dict(zip(keys, levels, strict=True))))
            for levels in itertools.product(*self.levels.values())
        ]

    @property
    def others(self) -> int:
        """Combinations of everything but the rate."""
        return max(1, len(self.batch_sizes)) * max(1, len(self.epochs))


def around(suggested: float) -> tuple[float, ...]:
    """Rates around a suggestion, with two digits each, so that they can be read and written."""
    return tuple(rounded(suggested * SPACING**power) for power in AROUND)


def beyond(rates: Sequence[float], best: float) -> float | None:
    """The next rate outwards where the best one is at an end of those that were tried."""
    ends = {min(rates): 1 / SPACING, max(rates): SPACING}
    return rounded(best * ends[best]) if best in ends and len(rates) > 1 else None


def grid_points(low: float, high: float) -> int:
    """Rates of a grid from one to the other with the same spacing."""
    return int(math.log(high / low) / math.log(SPACING) + 1e-9) + 1


def rounded(rate: float) -> float:
    """A rate of two digits."""
    return float(f"{rate:.1e}")


def read_numbers(text: str | None, option: str, *, whole: bool = False) -> tuple[float, ...]:
    """Positive numbers between commas, ascending; empty without a text.

    Raises:
        UserError: One is none, or is there twice.
    """
    found: list[float] = []
    for part in (text or "").split(","):
        if not part.strip():
            continue
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not (0 < value < math.inf) or (whole and value != int(value)):
            kind = "whole number above 0" if whole else "number above 0"
            example = EXAMPLES.get(option, "8,16,32")
            raise UserError(f"`{part.strip()}` is no {kind}", where=option, fix=f"write some as `{example}`")
        if value in found:
            raise UserError(f"{value:g} is there twice", where=option, fix="name each value once")
        found.append(value)
    if text is not None and not found:
        raise UserError("no value is named", where=option, fix="name some, or leave the option out")
    return tuple(sorted(found))


def refuse_unsuited(config: RunConfig, space: dict[str, Any]) -> None:
    """Refuse recipes whose length or rate is not what the sweep would set.

    Args:
        config: The recipe.
        space: Values by option, such as ``{"--epochs": (1, 2)}``.

    Raises:
        UserError: The recipe has stages, or a number of updates beside which epochs or batches mean something else.
    """
    if config.stages:
        fix = "sweep a recipe of one stage, and put what is found into the stages"
        raise UserError("the recipe has stages, each with a rate and a length of its own", where="stages", fix=fix)
    given = [option for option in ("--batch-sizes", "--epochs") if space.get(option)]
    if given and config.train.max_steps is not None:
        raise UserError(
            f"with `train.max_steps` {given[0]} would compare trainings on different numbers of rows",
            where=given[0],
            fix="set `train.max_steps=null train.num_epochs=...`",
        )


def _variant(settings: dict[str, float]) -> Variant:
    written = {key: f"{value:g}" for key, value in settings.items()}
    label = ", ".join(f"{NAMES[key]} {value}" for key, value in written.items())
    return Variant(label, (), (*(f"{key}={value}" for key, value in written.items()), "evaluate.retention=none"))
