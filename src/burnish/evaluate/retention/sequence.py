"""What a model that learns tasks one after the other keeps of each: transfer and forgetting from a matrix of scores."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def transfer(scores: ArrayLike, base: ArrayLike) -> dict[str, float]:
    """The measures of continual learning.

    With R[i, j] the score on task j after learning task i, b[j] that of the untouched model, and T tasks:

        average    = 1/T sum_j R[T, j]                                (Lopez-Paz & Ranzato, 2017, section 2)
        backward   = 1/(T-1) sum_{i<T} R[T, i] - R[i, i]
        forward    = 1/(T-1) sum_{i>1} R[i-1, i] - b[i]
        forgetting = 1/(T-1) sum_{j<T} max_{l<T} R[l, j] - R[T, j]    (Chaudhry et al., 2018, section 3)

    Deviation: the maximum runs over l from j on, after task j was learnt, as in Chaudhry's text of what was gained; a
    score that was higher before is no knowledge of the task.

    Args:
        scores: [T, T], higher is better.
        base: [T].

    Raises:
        ValueError: There are fewer than two tasks, or the shapes differ.
    """
    R, b = np.asarray(scores, dtype=np.float64), np.asarray(base, dtype=np.float64)
    tasks = len(b)
    if tasks < 2 or R.shape != (tasks, tasks):
        raise ValueError(f"scores {R.shape} and base {b.shape} must be [T, T] and [T] with T of 2 or more")
    last = R[-1]
    return {
        "average": float(last.mean()),
        "backward_transfer": float(np.mean([last[i] - R[i, i] for i in range(tasks - 1)])),
        "forward_transfer": float(np.mean([R[i - 1, i] - b[i] for i in range(1, tasks)])),
        "forgetting": float(np.mean([R[j : tasks - 1, j].max() - last[j] for j in range(tasks - 1)])),
    }
