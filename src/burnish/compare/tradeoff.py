"""Task against retention: a few ways of training are run, the front is marked, and one of them is recommended."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.compare.arms import PLAIN
from burnish.compare.basis import settled
from burnish.compare.front import Option, Weighed
from burnish.compare.front_page import CHANGES, Table, caption, table_of, write_page
from burnish.compare.outcome import Outcome
from burnish.compare.plane import plane_of
from burnish.compare.retained import read_retained
from burnish.compare.run import Listener, Outcomes, deciding, refuse_all_refused, run_trials
from burnish.compare.statistics import Estimate, combined, estimate, resampled
from burnish.compare.trials import Prepared, Wanted, prepare
from burnish.compare.words import seconds
from burnish.core.files import write_json

RESULTS, PAGE = "tradeoff.json", "tradeoff.html"
TITLE = "Task against what the model still knows"
_NORMAL = 1.959963984540054  # half a 95 % interval of a normal distribution, in standard deviations
_DRAWS = 100  # independent texts that a retention is taken to rest on, for its degrees of freedom


@dataclass(frozen=True, kw_only=True)
class Tradeoff(Weighed):
    """What the arms came to.

    Attributes:
        seeds: Runs wanted for each arm.
        overrides: Changes of the recipe by arm.
        facts: Medians by arm: ``training_seconds``, ``tokens_per_second``, ``peak_bytes``.
        failed: Why arms have no numbers, or fewer runs.
    """

    seeds: int
    overrides: dict[str, tuple[str, ...]]
    facts: dict[str, dict[str, float]]
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """For ``tradeoff.json``."""
        return {
            **self.basis(),
            "seeds": self.seeds,
            "tolerance": self.tolerance,
            "arms": [
                {
                    **self.option_json(option),
                    "overrides": list(self.overrides[option.label]),
                    **self.facts[option.label],
                }
                for option in self.options
            ],
            "failed": self.failed,
        }

    @property
    def table(self) -> Table:
        """One line for every arm."""
        facts = {label: (seconds(one["training_seconds"]),) for label, one in self.facts.items()}
        return table_of(
            self,
            first="arm",
            facts={label: (*cells, " ".join(self.overrides[label])) for label, cells in facts.items()},
            fact_names=("training", CHANGES),
        )

    @property
    def caption(self) -> str:
        """What the numbers are of."""
        return caption(self, self.seeds)


def weigh(wanted: Wanted, tolerance: float, listener: Listener | None = None) -> Tradeoff:
    """Run the arms, or what is left of them; ``tradeoff.json`` and its page are written after every run.

    Raises:
        UserError: No arm can be run at all.
    """
    prepared = prepare(wanted)
    refuse_all_refused(prepared, "--arm")
    found = gathered(wanted, prepared, {}, {}, tolerance)

    def note(outcomes: Outcomes, failures: Mapping[str, str]) -> None:
        nonlocal found
        found = gathered(wanted, prepared, outcomes, failures, tolerance)
        write_json(wanted.output / RESULTS, found.to_json())
        write(found, wanted)

    run_trials(wanted, prepared, listener or Listener(), note)
    return found


def gathered(
    wanted: Wanted,
    prepared: Sequence[Prepared],
    outcomes: Outcomes,
    failures: Mapping[str, str],
    tolerance: float,
) -> Tradeoff:
    """The arms so far."""
    config = wanted.config
    first = next((found[0] for found in outcomes.values() if found), None)
    metric = settled(deciding(config), first.scored if first else None)
    options, facts = [], {}
    weights = resampled(len(first.scored.ids)) if first else None
    for one in prepared:
        label = one.variant.label
        runs = [o for o in outcomes.get(label, ()) if first and o.scored.ids == first.scored.ids]
        if runs and weights is not None:
            task = estimate([o.scored for o in runs], metric, weights)
            options.append(Option(label, task, kept_over([_kept(one, o) for o in runs])))
            names = ("training_seconds", "tokens_per_second", "peak_bytes")
            facts[label] = {name: statistics.median(o.facts[name] for o in runs) for name in names}
    refused = {one.variant.label: one.refused for one in prepared if one.refused}
    return Tradeoff(
        metric=metric,
        split=first.split if first else "",
        rows=len(first.scored.ids) if first else 0,
        options=tuple(options),
        tolerance=tolerance,
        plain=PLAIN,
        seeds=wanted.seeds,
        overrides={one.variant.label: one.variant.overrides for one in prepared},
        facts=facts,
        failed={**refused, **failures},
        about={"recipe": config.name, "model": config.model.path, "minutes": wanted.minutes},
    )


def _kept(one: Prepared, outcome: Outcome) -> Estimate | None:
    return read_retained(one.trials[outcome.seed].folder)


def kept_over(seeds: Sequence[Estimate | None]) -> Estimate | None:
    """A retention over the seeds, with chance of seeds and of texts; None where a run has none.

    All runs are measured on the same texts, so that their mean has the variance over texts of a single one: that of
    their intervals, on average.
    """
    known = [one for one in seeds if one is not None]
    if not known or len(known) < len(seeds):
        return None
    texts = float(np.mean([((one.high - one.low) / 2 / _NORMAL) ** 2 for one in known]))
    return combined(np.array([one.value for one in known]), texts, _DRAWS)


def write(found: Tradeoff, wanted: Wanted) -> None:
    """The page."""
    advice = found.advice
    notes = [("Without numbers", sorted(found.failed.items()))] if found.failed else []
    write_page(
        wanted.output / PAGE,
        found.table,
        plane_of(found),
        title=TITLE,
        subject=subject(found),
        verdict=advice.words if advice else ("No run has finished yet.",),
        about=found.caption,
        notes=notes,
    )


def subject(found: Tradeoff) -> str:
    """Recipe and model in one line."""
    count = len(found.overrides)
    minutes = f", {found.about['minutes']:g} minutes of training in all" if found.about.get("minutes") else ""
    return f"{found.job}, {count} arm{'s' if count != 1 else ''}{minutes}"
