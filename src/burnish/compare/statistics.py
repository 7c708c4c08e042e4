"""Quality over seeds and rows: intervals, paired tests, and Holm's correction for many of them.

S seeds, N held-out rows, R resamples of the rows. Every run of a comparison is scored on the same rows, so that a
quality q_s of each seed s has two sources of chance: the seed (order of the rows, initial values, dropout) and which
rows were held out. With qbar the mean over the seeds, v = var_s(q_s) / S, and u the variance of qbar when rows are
drawn again (bootstrap, all seeds on the same draw),

    interval   qbar ± t(0.975, f) sqrt(u + v),    f = (u + v)^2 / (v^2 / (S - 1) + u^2 / (N - 1))

where f are the degrees of freedom of Satterthwaite (1946). The difference of two methods is treated alike, paired by
seed and by row, and tested with t = dbar / sqrt(u + v). With one seed v is unknown and left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from burnish.evaluate.classification import macro_f1
from burnish.evaluate.intervals import holm
from burnish.evaluate.resample import Draws, Floats, Weights, confusions

RESAMPLES = 2000
LEVEL = 0.05


@dataclass(frozen=True)
class Scored:
    """One run on the held-out rows.

    Attributes:
        ids: Names of the rows.
        losses: [N] each row's mean loss.
        counts: [N] units that it is a mean over.
        true: [N] class of each row; empty without classes.
        predicted: [N] class that was answered.
        classes: How many there are.
    """

    ids: tuple[str, ...]
    losses: Floats
    counts: Floats
    true: NDArray[np.int64]
    predicted: NDArray[np.int64]
    classes: int = 0


Metric = Callable[[Scored, Weights], Floats]


def _loss(run: Scored, weights_RN: Weights) -> Floats:
    return (weights_RN @ (run.losses * run.counts)) / (weights_RN @ run.counts)


def _accuracy(run: Scored, weights_RN: Weights) -> Floats:
    return (weights_RN @ (run.true == run.predicted).astype(np.float64)) / len(run.true)


def _macro_f1(run: Scored, weights_RN: Weights) -> Floats:
    return macro_f1(confusions(run.true, run.predicted, run.classes, weights_RN))


METRICS: Mapping[str, tuple[Metric, bool]] = {
    "loss": (_loss, False),
    "accuracy": (_accuracy, True),
    "macro_f1": (_macro_f1, True),
}
"""By name: from a run and [R, N] weights of its rows to [R] values, and whether more is better."""


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95 % interval over seeds and rows, and the value of each seed."""

    value: float
    low: float
    high: float
    seeds: tuple[float, ...]
    p: float = 1.0

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        return {"value": self.value, "low": self.low, "high": self.high, "seeds": list(self.seeds)}


def resampled(rows: int, seed: int = 0) -> Draws:
    """[R, N] how often each row is drawn in each resample; every run of a comparison sees the same draws."""
    return Draws(rows, RESAMPLES, seed)


def estimate(runs: Sequence[Scored], metric: str, weights_RN: Draws, against: Sequence[Scored] = ()) -> Estimate:
    """A method's quality, or its difference to another's on the same seeds and rows.

    Args:
        runs: One for each seed.
        metric: Name in ``METRICS``.
        weights_RN: Of ``resampled``.
        against: The other method's runs, seed by seed.

    Returns:
        With ``against`` the difference, whose ``p`` is two-sided.
    """
    measure = METRICS[metric][0]
    whole = np.ones((1, weights_RN.rows))
    seeds = np.array([float(measure(run, whole)[0]) for run in runs])
    draws = np.mean([measure(run, weights_RN) for run in runs], axis=0)
    if against:
        seeds = seeds - np.array([float(measure(run, whole)[0]) for run in against])
        draws = draws - np.mean([measure(run, weights_RN) for run in against], axis=0)
    found = combined(seeds, float(draws.var(ddof=1)), weights_RN.rows)
    least, most = ((-1.0, 1.0) if against else (0.0, 1.0)) if METRICS[metric][1] else (-np.inf, np.inf)
    return replace(found, low=max(found.low, least), high=min(found.high, most))  # a share stays a share


def combined(seeds: Floats, rows_variance: float, rows: int) -> Estimate:
    """Mean, interval and p-value from the seeds' values and the variance over rows."""
    value, several = float(seeds.mean()), len(seeds) > 1
    seeds_variance = float(seeds.var(ddof=1)) / len(seeds) if several else 0.0
    total = rows_variance + seeds_variance
    kept = tuple(float(s) for s in seeds)
    if total <= 0:
        return Estimate(value, value, value, kept, p=1.0 if value == 0 else 0.0)
    inverse = rows_variance**2 / max(1, rows - 1) + (seeds_variance**2 / (len(seeds) - 1) if several else 0.0)
    freedom = total**2 / inverse
    half = float(stdtrit(freedom, 1 - LEVEL / 2)) * total**0.5
    return Estimate(value, value - half, value + half, kept, p=2 * float(stdtr(freedom, -abs(value) / total**0.5)))


@dataclass(frozen=True)
class Pair:
    """Two methods compared: ``first - second`` with its interval, the p-value, and that after Holm's correction."""

    first: str
    second: str
    difference: Estimate
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        """Whether the difference is more than chance explains, all pairs considered."""
        return self.adjusted < LEVEL

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        return {
            "first": self.first,
            "second": self.second,
            "difference": self.difference.to_json(),
            "p": self.p,
            "p_holm": self.adjusted,
            "significant": self.significant,
        }


def pairs(runs: Mapping[str, Mapping[int, Scored]], metric: str, weights_RN: Draws) -> list[Pair]:
    """Every method against every other, on the seeds that both have.

    Args:
        runs: By method, then by seed.
        metric: Name in ``METRICS``.
        weights_RN: Of ``resampled``.
    """
    names, found = list(runs), []
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            both = sorted(runs[first].keys() & runs[second].keys())
            if both:
                one, other = ([runs[name][s] for s in both] for name in (first, second))
                found.append((first, second, estimate(one, metric, weights_RN, other)))
    adjusted = holm([difference.p for *_, difference in found])
    return [Pair(a, b, d, d.p, p) for (a, b, d), p in zip(found, adjusted, strict=True)]
