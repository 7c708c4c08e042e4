"""Intervals and paired tests, from counts alone, so that memory does not grow with the evaluation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

from burnish.evaluate.resample import Floats, chosen_rows, ends

Z95 = 1.959963984540054
RESAMPLES = 2000

Counts = NDArray[np.int64]


def wilson(successes: int, total: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927), which stays within [0, 1] and is right for few rows.

    With p = k / n and z = 1.96: ``(p + z^2/2n ± z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``.
    """
    if not total:
        return (float("nan"), float("nan"))
    p, spread = successes / total, Z95**2 / total
    middle = p + spread / 2
    half = Z95 * math.sqrt(p * (1 - p) / total + spread / (4 * total))
    return ((middle - half) / (1 + spread), (middle + half) / (1 + spread))


def bootstrap_confusion(confusion: Counts, statistic: Callable[[Floats], Floats], seed: int) -> tuple[float, float]:
    """95 % percentile interval of a statistic of a confusion matrix.

    Drawing n rows with replacement gives the cells of the matrix a multinomial distribution, so the rows themselves are
    not needed.

    Args:
        confusion: [K, K] counts, true class by predicted class.
        statistic: From [S, K, K] matrices to [S] values.
        seed: Seed of the draws.
    """
    total = int(confusion.sum())
    if not total:
        return (float("nan"), float("nan"))
    generator = np.random.default_rng(seed)
    draws = generator.multinomial(total, confusion.ravel() / total, size=RESAMPLES)
    values = statistic(draws.reshape(RESAMPLES, *confusion.shape).astype(np.float64))
    return ends(values)


def bootstrap_ratio(totals: Floats, counts: Floats, seed: int) -> tuple[float, float]:
    """95 % percentile interval of ``sum(totals) / sum(counts)`` over rows drawn with replacement.

    Args:
        totals: [N] each row's sum, such as its loss.
        counts: [N] each row's units, such as its trained tokens.
        seed: Seed of the draws.
    """
    if not len(totals) or not counts.sum():
        return (float("nan"), float("nan"))
    values = np.empty(RESAMPLES)
    for i, chosen in enumerate(chosen_rows(len(totals), RESAMPLES, seed)):
        values[i] = totals[chosen].sum() / max(counts[chosen].sum(), 1e-12)
    return ends(values)


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that two classifiers err equally often on the same rows (McNemar, 1947).

    Args:
        only_first: Rows that only the first got right.
        only_second: Rows that only the second got right.
    """
    discordant = only_first + only_second
    # at 1/2 both tails are alike; scipy.special alone loads in a tenth of the time and memory of scipy.stats
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), discordant, 0.5))) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm, 1979): the i-th smallest of m times ``m - i + 1``, never falling, at most 1."""
    m, least, adjusted = len(p_values), 0.0, [0.0] * len(p_values)
    for rank, place in enumerate(sorted(range(m), key=lambda i: p_values[i])):
        least = max(least, min(1.0, (m - rank) * p_values[place]))
        adjusted[place] = least
    return adjusted


def paired_bootstrap(first: Floats, second: Floats, counts: Floats, seed: int) -> tuple[float, float, float]:
    """Difference of two means over the same rows, with its 95 % percentile interval.

    Args:
        first: [N] row sums of the first.
        second: [N] row sums of the second.
        counts: [N] units of each row.
        seed: Seed of the draws.

    Returns:
        ``second - first`` in units of the mean, and the ends of its interval.
    """
    low, high = bootstrap_ratio(second - first, counts, seed)
    return float((second - first).sum() / counts.sum()), low, high
