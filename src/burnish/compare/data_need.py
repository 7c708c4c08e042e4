"""How much data a task needs: trainings on growing parts of the rows, and a learning curve through what they reach."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from burnish.compare.basis import settled
from burnish.compare.need_page import write_need_page
from burnish.compare.need_words import Need, answers
from burnish.compare.outcome import Outcome
from burnish.compare.run import Listener, Outcomes, deciding, refuse_all_refused, run_trials
from burnish.compare.standings import value_of
from burnish.compare.statistics import METRICS
from burnish.compare.trials import Wanted, prepare
from burnish.compare.variants import Variant
from burnish.core.errors import UserError
from burnish.core.files import write_json
from burnish.plan.learning_curve import FEWEST, fit_learning_curve
from burnish.train.config import RunConfig
from burnish.train.tasks import read_data

RESULTS, PAGE = "data-need.json", "data-need.html"
HALVINGS = 4
"""Of the largest size, where none are named: five sizes, each half of the next."""
LIMITS = {"loss": 0.0, "accuracy": 1.0, "macro_f1": 1.0}
"""The best value that there is."""


@dataclass(frozen=True)
class NeedWanted:
    """What is asked.

    Attributes:
        config: The recipe.
        output: Folder of the runs.
        sizes: Numbers of training rows; empty takes the recipe's and its halves.
        seeds: Trainings of each size.
        least_updates: Updates that small sizes get at least, in more passes than the recipe's.
        targets: Qualities whose number of rows is asked.
        rows: Numbers of rows whose quality is asked.
    """

    config: RunConfig
    output: Path
    sizes: tuple[int, ...] = ()
    seeds: int = 3
    least_updates: int = 150
    targets: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()


def data_need(wanted: NeedWanted, listener: Listener | None = None) -> Need:
    """Train on growing parts of the rows, or on what is left of them, and answer what more rows would bring.

    The parts are nested: a smaller one is part of a larger one of the same seed. All are scored on the same held-out
    rows, of which none is trained on. Files are written after every training.

    Raises:
        UserError: There are too few sizes, or nothing can be trained.
    """
    sizes = settled_sizes(wanted)
    arms = {f"{n} rows": n for n in sizes}
    variants = [arm(wanted.config, n, wanted.least_updates) for n in sizes]
    jobs = Wanted(wanted.config, variants, wanted.seeds, wanted.output, timed=False)
    prepared = prepare(jobs)
    refuse_all_refused(prepared, "RECIPE")
    found = gathered(wanted, arms, {}, {one.variant.label: one.refused for one in prepared if one.refused})

    def note(outcomes: Outcomes, failures: Mapping[str, str]) -> None:
        nonlocal found
        found = gathered(wanted, arms, outcomes, failures)
        write_json(wanted.output / RESULTS, found.to_json())
        write_need_page(found, wanted.output / PAGE)

    run_trials(jobs, prepared, listener or Listener(), note)
    if found.failed and not found.values:
        label, why = next(iter(found.failed.items()))
        raise UserError(f"no training came to its end; `{label}`: {why}", where=str(wanted.output))
    return found


def settled_sizes(wanted: NeedWanted) -> list[int]:
    """The sizes, ascending.

    Raises:
        UserError: They are too few for a curve, or more than there are rows.
    """
    config = wanted.config
    if wanted.sizes and len(wanted.sizes) < FEWEST:
        what = f"{len(wanted.sizes)} sizes are too few for a curve and a point to check it"
        raise UserError(what, where="--sizes", fix=f"name {FEWEST} or more, such as `250,500,1000,2000,4000`")
    whole = config.model_copy(update={"data": config.data.model_copy(update={"train_rows": None})})
    there = len(read_data(whole).train)
    if wanted.sizes:
        if max(wanted.sizes) > there:
            what = f"there are {there:,} training rows, and a size of {max(wanted.sizes):,} was asked"
            raise UserError(what, where="--sizes", fix="leave it out; what more rows bring is asked with `--rows`")
        return sorted(wanted.sizes)
    most = min(there, config.data.train_rows or there)
    sizes = [most >> halving for halving in range(HALVINGS, -1, -1)]
    if sizes[0] < 2:
        what = f"{most} training rows cannot be halved {HALVINGS} times"
        raise UserError(what, where="data.train", fix="name sizes yourself: `--sizes`")
    return sizes


def arm(config: RunConfig, size: int, least_updates: int) -> Variant:
    """The recipe on so many rows; small sizes get more passes, so that what they lack is rows and not updates."""
    changes = [f"data.train_rows={size}"]
    if config.train.max_steps is None and not config.stages:
        changes.append(f"train.num_epochs={passes(config, size, least_updates):g}")
    if config.evaluate.retention.on:
        changes.append("evaluate.retention=none")
    return Variant(f"{size} rows", (), tuple(changes))


def passes(config: RunConfig, size: int, least_updates: int) -> float:
    """Passes over so many rows: the recipe's, or as many as make the fewest updates."""
    return max(config.train.num_epochs, round(least_updates * config.train.batch_size / size, 3))


def gathered(wanted: NeedWanted, arms: Mapping[str, int], outcomes: Outcomes, failures: Mapping[str, str]) -> Need:
    """What is known so far."""
    config = wanted.config
    first: Outcome | None = next((found[0] for found in outcomes.values() if found), None)
    metric = settled(deciding(config), first.scored if first else None)
    values: dict[int, tuple[float, ...]] = {}
    for label, size in arms.items():
        runs: Sequence[Outcome] = [o for o in outcomes.get(label, ()) if first and o.scored.ids == first.scored.ids]
        if runs:
            values[size] = tuple(value_of(o.scored, metric) for o in runs)
    curve = None
    if len(values) == len(arms) and not failures:
        curve = fit_learning_curve(values, higher=METRICS[metric][1], limit=LIMITS[metric])
    return Need(
        metric=metric,
        split=first.split if first else "",
        rows=len(first.scored.ids) if first else 0,
        values=values,
        passes={size: length_words(wanted, size) for size in arms.values()},
        curve=curve,
        answers=answers(curve, metric, wanted.targets, wanted.rows) if curve else (),
        failed=dict(failures),
        about={"recipe": config.name, "model": config.model.path, "seeds": wanted.seeds, "sizes": list(arms.values()),
               "least_updates": wanted.least_updates},
    )  # fmt: skip


def length_words(wanted: NeedWanted, size: int) -> str:
    """How long a size is trained."""
    config = wanted.config
    if config.stages:
        return "the recipe's stages"
    if config.train.max_steps is not None:
        return f"{config.train.max_steps:,} updates"
    times = passes(config, size, wanted.least_updates)
    return f"{times:g} passes, {math.ceil(np.round(times * math.ceil(size / config.train.batch_size), 6)):,} updates"
