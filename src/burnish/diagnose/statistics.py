"""Robust statistics of short noisy series: medians, spreads, trends. Pure functions over arrays; n values each."""

from __future__ import annotations

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]

TO_SIGMA = 1.4826
"""A median absolute deviation times this estimates the standard deviation of a normal."""
MEDIAN_ERROR = 1.2533
"""The standard error of a median is this times that of a mean, sqrt(pi / 2)."""
MOST_POINTS = 200
"""A trend over more points is taken over so many, evenly chosen: it looks at every pair."""


def spread(values: Floats) -> float:
    """Standard deviation, from the median absolute deviation."""
    return float(TO_SIGMA * np.median(np.abs(values - np.median(values)))) if len(values) else 0.0


def noise(values: Floats) -> float:
    """Standard deviation around a curve that moves slowly: ``spread(differences of neighbours) / sqrt 2``."""
    return spread(np.diff(values)) / math.sqrt(2) if len(values) > 2 else 0.0


def level(values: Floats) -> tuple[float, float]:
    """The median and its standard error, whose spread is taken around a slowly moving curve."""
    if not len(values):
        return float("nan"), float("inf")
    return float(np.median(values)), MEDIAN_ERROR * noise(values) / math.sqrt(len(values))


def running_median(values: Floats, width: int) -> Floats:
    """[n] the median of the window of ``width`` (odd) around each value; the ends have shorter windows."""
    return _medians(values, width // 2, width // 2)


def trailing_median(values: Floats, width: int) -> Floats:
    """[n] the median of each value and the ``width - 1`` before it: what was known at that time."""
    return _medians(values, width - 1, 0)


def _medians(values: Floats, before: int, after: int) -> Floats:
    """Medians of windows; whole ones at once, those that an end cuts one by one."""
    n, width = len(values), before + after + 1
    found = np.empty(n)
    if n >= width:
        found[before : n - after] = np.median(sliding_window_view(values, width), axis=1)
    for i in (*range(min(before, n)), *range(max(n - after, min(before, n)), n)):
        found[i] = np.median(values[max(0, i - before) : i + after + 1])
    return found


def trend(values: Floats) -> tuple[float, float]:
    """Theil-Sen slope per value, and the z of the Mann-Kendall test against no trend.

    The slope is the median of ``(y_j - y_i) / (j - i)`` over all pairs (Sen, 1968); with S the number of rising pairs
    minus the falling ones, ``z = (S - sign S) / sqrt(n (n - 1) (2 n + 5) / 18)``.
    """
    n = len(values)
    if n < 3:
        return 0.0, 0.0
    step = math.ceil(n / MOST_POINTS)
    chosen = values[::step]
    n = len(chosen)
    i, j = np.triu_indices(n, 1)
    rises = chosen[j] - chosen[i]
    s = float(np.sign(rises).sum())
    z = (s - np.sign(s)) / math.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    return float(np.median(rises / (j - i))) / step, float(z)


def autocorrelation(values: Floats) -> float:
    """Lag-1 autocorrelation of what a moving mean over two swings, of weights 1 2 2 2 1 by 8, leaves of a curve.

    A curve that swings from one value to the next has -1. Noise without memory has -0.43, the autocorrelation of the
    filter 1 - mean.
    """
    if len(values) < 8:
        return 0.0
    rest = values[2:-2] - np.convolve(values, np.array([1.0, 2, 2, 2, 1]) / 8, mode="valid")
    rest = rest - rest.mean()
    power = float((rest**2).sum())
    return float((rest[1:] * rest[:-1]).sum() / power) if power > 0 else 0.0


def first_lasting(mask: NDArray[np.bool_]) -> int | None:
    """Where a condition that holds at the end began to hold without a break; None when it does not hold at the end."""
    if not len(mask) or not mask[-1]:
        return None
    off = np.flatnonzero(~mask)
    return int(off[-1]) + 1 if len(off) else 0
