"""Temperature scaling (Guo et al., 2017): one number that makes probabilities as sure as they are right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from burnish.core.errors import UserError
from burnish.evaluate.intervals import Counts, Floats
from burnish.evaluate.scored import metrics_of

COLDEST, HOTTEST = 0.05, 20.0
"""Bounds of the temperature. Rows that are all right would have it fall to 0 without end."""
SHOWN = ("ece", "log_loss", "brier", "accuracy")
_HALVINGS = 80


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The T that minimises the mean ``-log softmax(logits / T)[label]`` (Guo et al., 2017, sec. 4.2).

    In b = 1 / T that loss is convex, with the derivative ``mean(sum_k p_k z_k - z_label)``, so halving an interval
    finds its only zero to the precision of a double. No class changes its rank, so neither does the predicted one.

    Args:
        logits: [N, K]; log-probabilities will do, since a constant a row does not matter.
        labels: [N] class numbers.

    Returns:
        T within ``COLDEST`` and ``HOTTEST``.

    Raises:
        UserError: There are no rows to fit it on.
    """
    values, true = np.asarray(logits, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if not len(true):
        fix = "hold out validation rows, such as `data.split.validation=0.1`"
        raise UserError("there are no rows to fit a temperature on", fix=fix)
    values = values - values.max(1, keepdims=True)
    low, high = np.log(1 / HOTTEST), np.log(1 / COLDEST)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if _slope(values, true, float(np.exp(middle))) > 0 else (middle, high)
    return float(np.exp(-(low + high) / 2))


def _slope(values: Floats, true: Counts, inverse: float) -> float:
    shares = np.exp(values * inverse)
    shares /= shares.sum(1, keepdims=True)
    return float(((shares * values).sum(1) - values[np.arange(len(true)), true]).mean())


def calibrated(log_probabilities: Floats, temperature: float) -> Floats:
    """[N, K] probabilities ``softmax(log p / T)``."""
    values = log_probabilities / temperature
    shares = np.exp(values - values.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def effect(scores: Floats, labels: ArrayLike, temperature: float) -> dict[str, Any]:
    """What a temperature does to rows that it was not fitted on.

    Args:
        scores: [N, K] log-probabilities that were made with it.
        labels: [N] class numbers.
        temperature: T; ``scores * T`` are those without it.

    Returns:
        Calibration error, log-loss, Brier score and accuracy ``before`` and ``after``.
    """
    both = {"before": calibrated(scores, 1 / temperature), "after": calibrated(scores, 1.0)}
    found = {name: metrics_of(one, labels) for name, one in both.items()}
    return {"temperature": temperature, **{k: {name: one[name] for name in SHOWN} for k, one in found.items()}}
