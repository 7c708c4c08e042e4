"""Drawing rows again: the one place where the bootstrap of every metric draws and reads off its ends.

Shapes: N rows, K classes, S draws. A draw of N rows with replacement is kept as the rows themselves, or as how often
each of them came up, which is all that a metric of counts needs. Models that are compared see the same draws, so what
makes rows hard for both cancels out (Koehn, 2004).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
ENDS = (2.5, 97.5)
"""Percentiles between which 95 % of the draws lie (Efron, 1979)."""


def chosen_rows(rows: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """[N] the rows of each draw, one draw at a time, so that memory stays that of the rows."""
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        yield generator.integers(0, rows, rows)


def multiplicities(rows: int, draws: int, generator: np.random.Generator) -> Floats:
    """[S, N] how often each row comes up in each draw."""
    return generator.multinomial(rows, np.full(rows, 1 / rows), size=draws).astype(np.float64)


def confusions(true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, weights_SN: Floats) -> Floats:
    """[S, K, K] the confusion matrix of every draw of rows, true class by predicted class."""
    cells = np.zeros((len(true), classes**2))
    cells[np.arange(len(true)), true * classes + predicted] = 1.0
    matrices: Floats = (weights_SN @ cells).reshape(-1, classes, classes)
    return matrices


def ends(values: ArrayLike) -> tuple[float, float]:
    """Both ends of the 95 % percentile interval, of the draws that have a value; NaN where none has."""
    drawn = np.asarray(values, dtype=np.float64)
    known = drawn[~np.isnan(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.percentile(known, ENDS)
    return float(low), float(high)
