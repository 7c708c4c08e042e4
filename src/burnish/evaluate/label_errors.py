"""Likely label errors by confident learning (Northcutt et al., "Confident Learning", JAIR 2021). N rows, K classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burnish.evaluate.intervals import Counts, Floats
from burnish.evaluate.scored import Scored


@dataclass(frozen=True)
class LabelErrors:
    """Rows whose label the model doubts with reason.

    Attributes:
        rows: [M] row numbers, the most doubtful label first.
        suggested: [M] the class that the model would give each.
        joint: [K, K] rows by given label and confidently predicted class, which need not hold every row.
        thresholds: [K] from which probability on a class counts as confidently predicted.
    """

    rows: NDArray[np.int64]
    suggested: NDArray[np.int64]
    joint: Counts
    thresholds: Floats


def find_label_errors(probabilities: ArrayLike, labels: ArrayLike) -> LabelErrors:
    """Rows that lie off the diagonal of the confident joint, ranked by how little the model believes their label.

    The threshold of class j is ``t_j = mean of p_j over the rows labelled j`` (eq. 2). A row labelled i counts in
    ``C[i, j]`` for the class j with the largest probability of those with ``p_j >= t_j`` (eq. 1); a row without any
    counts nowhere. The rows counted off the diagonal are the candidates (sec. 3.2, the confident joint as the filter),
    save those whose own label the model still finds likeliest, as in `cleanlab`; they are ranked by
    ``p_label - max of the other p`` (the normalized margin).

    The probabilities have to be those of a model that has not learnt from these rows, as of held-out ones; of rows that
    it was trained on, the errors have been learnt as well.

    Args:
        probabilities: [N, K].
        labels: [N] the labels as they are in the data.
    """
    rows = Scored.of(probabilities, labels)
    shares, given = rows.probabilities, rows.labels
    count, classes = shares.shape
    thresholds = np.array([shares[given == k, k].mean() if (given == k).any() else np.inf for k in range(classes)])
    above = shares >= thresholds - 1e-6  # the mean of equal numbers may come out a digit above them
    confident = above.any(1)
    # of several classes above their thresholds the likeliest counts
    best = np.where(above, shares, -1.0).argmax(1) if count else np.zeros(0, dtype=np.int64)
    joint = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(joint, (given[confident], best[confident]), 1)
    doubted = np.flatnonzero(confident & (best != given) & (rows.predicted != given))
    others = shares[doubted].copy()
    own = others[np.arange(len(doubted)), given[doubted]]
    others[np.arange(len(doubted)), given[doubted]] = -1.0
    order = np.argsort(own - others.max(1), kind="stable") if len(doubted) else np.zeros(0, dtype=np.int64)
    return LabelErrors(doubted[order], best[doubted][order], joint, thresholds)
