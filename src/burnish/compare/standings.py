"""Where the trials of a sweep stand: a line for each, how it compares with the best, what matters, what it all cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from burnish.compare.basis import Basis, better, settled
from burnish.compare.race import Stand
from burnish.compare.racing import Racer, Shares, curve
from burnish.compare.space import EPOCHS, NAMES, RATE, Candidate, Space, grid_points
from burnish.compare.statistics import METRICS, Estimate, Pair, Scored, estimate, resampled
from burnish.compare.trials import Prepared
from burnish.compare.variance import variance_shares
from burnish.evaluate.intervals import holm
from burnish.evaluate.resample import Draws


@dataclass(frozen=True)
class Line:
    """One trial.

    Attributes:
        label: Its name.
        settings: The value of each setting.
        value: The metric of the validation rows at its best evaluation, over its seeds; None where it failed.
        step: Updates that its first seed made.
        total: Updates of the whole training.
        ended: Whether it came to its end.
        against: The best trial minus this one, at the last place that both came to.
        why_not: Why it failed.
        curve: Updates and metric of its first seed.
    """

    label: str
    settings: dict[str, float]
    value: Estimate | None = None
    step: int = 0
    total: int = 0
    ended: bool = False
    against: Pair | None = None
    why_not: str = ""
    curve: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Cost:
    """Work in updates, and in rows trained on, repeats counted.

    Attributes:
        updates: Of the sweep, its range test included.
        rows: Of the sweep.
        range_updates: Of the range test.
        grid_trials: Trainings of the full grid, each with every seed.
        grid_updates: Its updates.
        grid_rows: Its rows.
        grid: The grid in words.
        candidates_rows: Rows if every trial of the sweep had been trained to its end with every seed.
    """

    updates: int
    rows: int
    range_updates: int
    grid_trials: int
    grid_updates: int
    grid_rows: int
    grid: str
    candidates_rows: int

    @property
    def share(self) -> float:
        """Rows of the sweep in those of the grid."""
        return self.rows / self.grid_rows if self.grid_rows else math.nan


@dataclass(frozen=True, kw_only=True)
class Sweep(Basis):
    """The sweep so far.

    Attributes:
        lines: Those that came to their end first, the best first; then the others by how far they came.
        importance: Share of each setting in the differences at the first stop.
        cost: What it took.
        tested: The range test; empty without one.
        overrides: Of the best trial.
    """

    lines: tuple[Line, ...]
    importance: dict[str, float]
    cost: Cost
    tested: dict[str, Any] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()

    @property
    def measured(self) -> list[Line]:
        """Lines with a value."""
        return [line for line in self.lines if line.value]

    @property
    def best(self) -> Line | None:
        """The best of those that came furthest."""
        return self.measured[0] if self.measured else None

    def to_json(self) -> dict[str, Any]:
        """For ``sweep.json``."""
        return {
            **self.basis(),
            "winner": {"label": self.best.label, "overrides": list(self.overrides)} if self.best else None,
            "trials": [
                {
                    "label": line.label,
                    "settings": line.settings,
                    "value": line.value.to_json() if line.value else None,
                    "updates": line.step,
                    "of": line.total,
                    "ended": line.ended,
                    "against_winner": line.against.to_json() if line.against else None,
                    "why_not": line.why_not,
                    "curve": [list(point) for point in line.curve],
                }
                for line in self.lines
            ],
            "importance": self.importance,
            "cost": {**vars(self.cost), "share_of_grid": self.cost.share},
            "range_test": self.tested,
        }


def value_of(scored: Scored, metric: str) -> float:
    """A trial's metric, settled on its rows."""
    return float(METRICS[settled(metric, scored)][0](scored, np.ones((1, len(scored.ids))))[0])


def standings(
    candidates: Mapping[str, Candidate],
    prepared: Mapping[str, Prepared],
    racer: Racer,
    space: Space,
    *,
    metric: str,
    tested: dict[str, Any],
    about: dict[str, Any],
) -> Sweep:
    """Everything that is known so far.

    Args:
        candidates: By label.
        prepared: Their runs.
        racer: Where they stand.
        space: The settings.
        metric: What decides.
        tested: The range test.
        about: What was tried.
    """
    first = next((stand for label in candidates if (stand := racer.last(label))), None)
    metric = settled(metric, first.scored if first else None)
    weights = resampled(len(first.scored.ids) if first else 0)
    keys = list(space.levels)
    lines = []
    for label, one in candidates.items():
        settings = dict(zip(keys, one.levels, strict=True))
        seeds = racer.stands.get(label, {})
        if not seeds:
            lines.append(Line(label, settings, why_not=racer.failures.get(label, "")))
            continue
        share = max(seeds[0])
        last = seeds[0][share]
        runs = [shares[share].scored for shares in seeds.values() if share in shares]
        path = tuple(curve(prepared[label].trials[0], metric))
        why = racer.failures.get(label, "")
        value = estimate(runs, metric, weights)
        lines.append(Line(label, settings, value, last.step, last.total, share == 1.0, None, why, path))
    lines.sort(
        key=lambda x: (
            x.value is None,
            bool(x.why_not),
            -x.step / (x.total or 1),
            -better(metric) * x.value.value if x.value else 0,
        )
    )
    if lines and lines[0].value:
        lines = _compared(lines, racer, metric, weights)
    winner = lines[0].label if lines and lines[0].value else None
    return Sweep(
        metric=metric,
        split="validation",
        rows=len(first.scored.ids) if first else 0,
        lines=tuple(lines),
        importance=_importance(candidates, racer, keys, metric),
        cost=_cost(racer, space, tested, about),
        tested=tested,
        about=about,
        overrides=candidates[winner].variant.overrides[:-1] if winner else (),  # without what only a trial needs
    )


def _compared(lines: Sequence[Line], racer: Racer, metric: str, weights: Draws) -> list[Line]:
    """Every line beside the best one, on the rows and seeds of the last place that both came to."""
    best, found = lines[0].label, {}
    for line in lines[1:]:
        if line.value:
            mine, its = racer.stands[line.label], racer.stands[best]
            shared = {seed: mine[seed].keys() & its[seed].keys() for seed in mine.keys() & its.keys()}
            places = [share for shares in shared.values() for share in shares]
            if places:
                share = max(places)
                seeds = sorted(seed for seed, shares in shared.items() if share in shares)
                one, other = ([x[s][share].scored for s in seeds] for x in (its, mine))
                found[line.label] = estimate(one, metric, weights, other)
    adjusted = dict(zip(found, holm([d.p for d in found.values()]), strict=True))
    pairs = {name: Pair(best, name, d, d.p, adjusted[name]) for name, d in found.items()}
    return [Line(**{**vars(line), "against": pairs.get(line.label)}) for line in lines]


def _importance(
    candidates: Mapping[str, Candidate], racer: Racer, keys: Sequence[str], metric: str
) -> dict[str, float]:
    """Of the variance among all trials at the first place that all of them came to."""
    stands: dict[str, Shares] = {label: racer.stands[label][0] for label in candidates if label in racer.stands}
    common = set.intersection(*(set(shares) for shares in stands.values())) if stands else set()
    if not common:
        return {}
    share = min(common)
    values = {candidates[label].levels: value_of(shares[share].scored, metric) for label, shares in stands.items()}
    return variance_shares(values, [NAMES[key] for key in keys])


def _cost(racer: Racer, space: Space, tested: Mapping[str, Any], about: Mapping[str, Any]) -> Cost:
    """What was done, and what the full grid would take: every rate in the range of the test, with all the rest."""
    ends: list[Stand] = [shares[max(shares)] for seeds in racer.stands.values() for shares in seeds.values()]
    rates = tested.get("rates") or []
    updates = sum(stand.step for stand in ends) + len(rates)
    tested_rows = len(rates) * int(about["batch_size"])
    wholes = {label: racer.last(label) for label in racer.stands}
    whole = [stand for stand in wholes.values() if stand]
    seeds = int(about["seeds"])
    per_rate = max(1, len(space.rates))
    grid_rates = grid_points(rates[0], rates[-1]) if rates else per_rate
    grid_updates = round(sum(stand.total for stand in whole) / per_rate * grid_rates) * seeds
    grid_rows = round(sum(stand.total * stand.batch_size for stand in whole) / per_rate * grid_rates) * seeds
    span = f"{grid_rates} rates"
    if rates:
        span += f" from {rates[0]:.1e} to {rates[-1]:.1e}, the range of the test"
    parts = [
        span,
        *(f"{len(v)} {'epochs' if k == EPOCHS else 'batch sizes'}" for k, v in space.levels.items() if k != RATE),
    ]
    words = ", ".join(parts) + f", {seeds} seed{'s' if seeds > 1 else ''}"
    return Cost(
        updates,
        sum(stand.rows for stand in ends) + tested_rows,
        len(rates),
        grid_rates * space.others,
        grid_updates,
        grid_rows,
        words,
        sum(stand.total * stand.batch_size for stand in whole) * seeds,
    )
