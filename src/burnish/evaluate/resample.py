"""Drawing rows again: the one place where the bootstrap of every metric draws and reads off its ends.

Shapes: N rows, K classes, S draws. A draw of N rows with replacement is kept as the rows themselves, or as how often
each of them came up, which is all that a metric of counts needs. Models that are compared see the same draws, so what
makes rows hard for both cancels out (Koehn, 2004).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
MOST_NUMBERS = 8 << 20
"""Numbers of draws that are held: 64 MB, which is 2,000 draws of 4,000 rows."""
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


@dataclass(frozen=True)
class Draws:
    """How often each of N rows comes up in each of S draws: [S, N] on the left of a product, made some draws at a time.

    Attributes:
        rows: N.
        draws: S.
        seed: The same one draws the same rows.
    """

    rows: int
    draws: int
    seed: int = 0

    def __matmul__(self, values: Floats) -> Floats:
        """[S] or [S, K] weighted sums of [N] or [N, K] values."""
        return np.concatenate([weights @ values for weights in self._blocks()])

    def _blocks(self) -> Iterator[Floats]:
        if self.rows * self.draws <= MOST_NUMBERS:
            yield self._whole
            return
        generator, step = np.random.default_rng(self.seed), max(1, MOST_NUMBERS // self.rows)
        for start in range(0, self.draws, step):
            yield multiplicities(self.rows, min(step, self.draws - start), generator)

    @cached_property
    def _whole(self) -> Floats:
        return multiplicities(self.rows, self.draws, np.random.default_rng(self.seed))


Weights = Floats | Draws
"""[S, N] how often each row counts."""


def confusions(true: NDArray[np.int64], predicted: NDArray[np.int64], classes: int, weights_SN: Weights) -> Floats:
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
