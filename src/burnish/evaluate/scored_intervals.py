"""Bootstrap intervals of the metrics of a classification, and of differences between two models on the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from burnish.core.errors import UserError
from burnish.evaluate.intervals import Floats, wilson
from burnish.evaluate.resample import chosen_rows, ends
from burnish.evaluate.scored import MEASURES, RANKS, Scored, metrics_of

RESAMPLES = 1000
FEWEST = 200
RANKED_CELLS = 4e7
"""Rows x classes x resamples that rankings are measured on; more rows get fewer resamples, never under ``FEWEST``."""

Intervals = dict[str, dict[str, float]]


def with_intervals(probabilities: ArrayLike, labels: ArrayLike, seed: int = 0) -> Intervals:
    """Every metric with its 95 % interval.

    Accuracy has Wilson's interval; the others have the percentile interval of the bootstrap over rows (Efron, 1979):
    the metric of as many rows, drawn with replacement, 1,000 times. A ranking is not recounted so often where there are
    very many rows.

    Args:
        probabilities: [N, K].
        labels: [N] class numbers.
        seed: Seed of the draws.

    Returns:
        For each metric its ``value``, ``low`` and ``high``.
    """
    rows, values = Scored.of(probabilities, labels), metrics_of(probabilities, labels)
    if not len(rows.labels):
        return {name: {"value": value, "low": value, "high": value} for name, value in values.items()}
    result = {}
    for name, draws in _draw([rows], seed).items():
        low, high = ends(draws[:, 0])
        result[name] = {"value": values[name], "low": low, "high": high}
    low, high = wilson(int(rows.right.sum()), len(rows.labels))
    for name in ("accuracy", "micro_f1"):
        result[name] = {"value": values[name], "low": low, "high": high}
    return result


def paired_differences(first: ArrayLike, second: ArrayLike, labels: ArrayLike, seed: int = 0) -> Intervals:
    """Second minus first in every metric, with the 95 % interval of the paired bootstrap.

    Both models are measured on the same drawn rows each time, so what makes rows hard for both cancels out
    (Koehn, 2004). An interval without zero is a difference at the 5 % level.

    Args:
        first: [N, K] probabilities of the first model.
        second: [N, K] of the second.
        labels: [N] class numbers.
        seed: Seed of the draws.

    Returns:
        For each metric its ``difference``, ``low`` and ``high``.

    Raises:
        UserError: The two do not have the same rows.
    """
    models = [Scored.of(one, labels) for one in (first, second)]
    if models[0].probabilities.shape[1] != models[1].probabilities.shape[1]:
        raise UserError("the two models tell different classes apart", fix="compare models of the same classes")
    before, after = metrics_of(first, labels), metrics_of(second, labels)
    nothing = {name: {"difference": float("nan")} for name in MEASURES}
    if not len(models[0].labels):
        return nothing
    result = {}
    for name, draws in _draw(models, seed).items():
        low, high = ends(draws[:, 1] - draws[:, 0])
        result[name] = {"difference": after[name] - before[name], "low": low, "high": high}
    return result


def resamples_of(rows: int, classes: int) -> int:
    """How often the rankings of so many rows are recounted."""
    return int(min(RESAMPLES, max(FEWEST, RANKED_CELLS // max(1, rows * classes))))


def _draw(models: Sequence[Scored], seed: int) -> dict[str, Floats]:
    """[R, M] values of each metric for M models on R draws of the rows; a draw is kept as the rows' multiplicities."""
    count, classes = models[0].probabilities.shape
    ranked = resamples_of(count, classes)
    values = {name: np.full((ranked if name in RANKS else RESAMPLES, len(models)), np.nan) for name in MEASURES}
    for draw, chosen in enumerate(chosen_rows(count, RESAMPLES, seed)):
        weights = np.bincount(chosen, minlength=count).astype(np.float64)
        for place, rows in enumerate(models):
            confusion = rows.confusion(weights)
            for name, measure in MEASURES.items():
                if name not in RANKS or draw < ranked:
                    values[name][draw, place] = measure(rows, weights, confusion)
    return values
