"""Numbers of columns of rows, with intervals and paired differences by drawing rows; any function of the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.evaluate.resample import Floats, chosen_rows, ends

RESAMPLES = 1000
Columns = Mapping[str, Floats]
"""What is known of every row: [N] or [N, K] each."""
Measure = Callable[[Columns], float]
Measures = Mapping[str, Measure]


def values(columns: Columns, measures: Measures) -> dict[str, float]:
    """Each measure of all rows."""
    return {name: measure(columns) for name, measure in measures.items()}


def measured(columns: Columns, measures: Measures, seed: int) -> dict[str, dict[str, float]]:
    """Each measure with its 95 % percentile interval over rows drawn with replacement."""
    found = values(columns, measures)
    draws = [values(one, measures) for one in _draws(columns, seed)]
    return {name: {"value": value, **_ends([d[name] for d in draws])} for name, value in found.items()}


def differences(base: Columns, tuned: Columns, measures: Measures, seed: int) -> dict[str, dict[str, float]]:
    """Tuned minus base of each measure on the same rows, with the interval of the difference over the same draws."""
    before, after = values(base, measures), values(tuned, measures)
    draws = [
        (values(one, measures), values(other, measures))
        for one, other in zip(_draws(base, seed), _draws(tuned, seed), strict=True)
    ]
    return {
        name: {"difference": after[name] - before[name], **_ends([b[name] - a[name] for a, b in draws])}
        for name in measures
    }


def _draws(columns: Columns, seed: int) -> Iterator[dict[str, Floats]]:
    """The columns of rows drawn with replacement."""
    rows = len(next(iter(columns.values())))
    for chosen in chosen_rows(rows, RESAMPLES if rows else 0, seed):
        yield {name: column[chosen] for name, column in columns.items()}


def _ends(draws: list[float]) -> dict[str, float]:
    low, high = ends(np.where(np.isfinite(draws), draws, np.nan) if draws else [])
    return {"low": low, "high": high}


def mean_of(column: str) -> Measure:
    """The mean of a column."""
    return lambda columns: float(columns[column].mean()) if len(columns[column]) else float("nan")


def share(part: Any, whole: Any) -> float:
    """``part / whole``, 0 of nothing."""
    return float(part) / float(whole) if whole else 0.0


def class_rows(
    right: NDArray[Any], said: NDArray[Any], true: NDArray[Any], labels: tuple[str, ...]
) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of each class from [K] counts."""
    return {
        label: {
            "precision": share(right[i], said[i]),
            "recall": share(right[i], true[i]),
            "f1": share(2 * right[i], said[i] + true[i]),
            "support": int(true[i]),
        }
        for i, label in enumerate(labels)
    }
