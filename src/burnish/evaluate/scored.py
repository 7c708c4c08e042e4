"""Metrics of predicted probabilities: what `scikit-learn` computes, and the same under weights, for intervals.

Shapes: N rows, K classes. Of a row nothing is kept but its K probabilities and the number of its class (8 K + 8 bytes);
while intervals are drawn, also its place in the order of each class's probabilities (8 K bytes more). Texts, tokens and
hidden states are gone as soon as their batch is scored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from burnish.core.errors import UserError
from burnish.evaluate.classification import class_f1, macro_f1
from burnish.evaluate.intervals import Floats

ECE_BINS = 15
"""Equal bins of confidence over [0, 1], as Guo et al. (2017) use."""


@dataclass(frozen=True)
class Scored:
    """The probabilities of a split's rows, with whatever several metrics need of them.

    Attributes:
        probabilities: [N, K], each row adding up to 1.
        labels: [N] numbers of the true classes.
    """

    probabilities: Floats
    labels: NDArray[np.int64]

    @classmethod
    def of(cls, probabilities: ArrayLike, labels: ArrayLike) -> Scored:
        """Check the arrays and wrap them.

        Raises:
            UserError: They do not fit each other, a class number has no column, or a number is no probability.
        """
        shares, true = np.asarray(probabilities, dtype=np.float64), np.asarray(labels, dtype=np.int64)
        if shares.ndim != 2 or true.shape != shares.shape[:1] or shares.shape[1] < 2:
            what = f"probabilities of shape {shares.shape} do not fit labels of shape {true.shape}"
            raise UserError(what, fix="give [N, K] probabilities of K >= 2 classes and [N] class numbers")
        if len(true) and not (true.min() >= 0 and true.max() < shares.shape[1]):
            what = f"class numbers from {true.min()} to {true.max()} do not fit {shares.shape[1]} columns"
            raise UserError(what, fix="number the classes from 0 in the order of the columns")
        if len(true) and not (np.isfinite(shares).all() and shares.min() >= 0 and shares.max() <= 1 + 1e-6):
            raise UserError("these are no probabilities", fix="give numbers from 0 to 1: a softmax, not logits")
        return cls(shares, true)

    @cached_property
    def predicted(self) -> NDArray[np.int64]:
        """[N] the likeliest class, the first of equals."""
        return self.probabilities.argmax(1)

    @cached_property
    def right(self) -> Floats:
        """[N] 1 where it is the true one."""
        return (self.predicted == self.labels).astype(np.float64)

    @cached_property
    def confidence(self) -> Floats:
        """[N] probability of the likeliest class."""
        return self.probabilities.max(1)

    @cached_property
    def cells(self) -> NDArray[np.int64]:
        """[N] cell of the confusion matrix, ``true * K + predicted``."""
        return self.labels * self.probabilities.shape[1] + self.predicted

    @cached_property
    def bins(self) -> NDArray[np.int64]:
        """[N] bin of the confidence: (0, 1/15], (1/15, 2/15], ..."""
        return np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, self.confidence, side="left")

    @cached_property
    def log_losses(self) -> Floats:
        """[N] ``-log p(true class)``; a probability of 0 counts as the smallest distinguishable one."""
        tiny = np.finfo(np.float64).eps
        return -np.log(np.clip(self.probabilities, tiny, 1 - tiny)[np.arange(len(self.labels)), self.labels])

    @cached_property
    def squared(self) -> Floats:
        """[N] squared distance of the probabilities from the truth, summed over the classes."""
        truth = np.zeros_like(self.probabilities)
        truth[np.arange(len(self.labels)), self.labels] = 1.0
        return ((truth - self.probabilities) ** 2).sum(1)

    @cached_property
    def orders(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]]:
        """For each class whose ranking is measured: rows by falling probability, ends of ties, and which are true."""
        return [self._order(k) for k in self.ranked]

    @property
    def ranked(self) -> range:
        """Classes whose ranking is measured: of two the second alone, as everywhere; else each against the rest."""
        k = self.probabilities.shape[1]
        return range(1, 2) if k == 2 else range(k)

    def _order(self, k: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
        order = np.argsort(-self.probabilities[:, k], kind="stable")
        values = self.probabilities[order, k]
        ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
        return order, ends, self.labels[order] == k

    def confusion(self, weights: Floats) -> Floats:
        """[K, K] weighted counts, true class by predicted class."""
        k = self.probabilities.shape[1]
        return np.bincount(self.cells, weights, minlength=k * k).astype(np.float64).reshape(k, k)


Measure = Callable[[Scored, Floats, Floats], float]
"""From rows, their weights and the weighted confusion matrix to a value."""


def accuracy(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Share of rows whose likeliest class is the true one; the micro-F1 of one class a row is the same number."""
    return float(np.trace(confusion) / confusion.sum())


def mean_f1(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Mean of the F1 of all classes that are true or predicted anywhere."""
    return float(macro_f1(confusion[None])[0])


def weighted_f1(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Mean F1 of the classes, each with the weight of its rows."""
    shares = confusion.sum(1)
    return float((class_f1(confusion[None])[0] * shares).sum() / shares.sum())


def macro_precision(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Mean precision of all classes that are true or predicted anywhere; 0 for one that is never predicted."""
    return _mean_share(confusion, confusion.sum(0))


def macro_recall(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Mean recall of all classes that are true or predicted anywhere; 0 for one that has no rows."""
    return _mean_share(confusion, confusion.sum(1))


def _mean_share(confusion: Floats, of: Floats) -> float:
    right = np.diag(confusion)
    shares = np.divide(right, of, out=np.zeros_like(right), where=of > 0)
    return float(shares.sum() / max(1, int(((confusion.sum(0) + confusion.sum(1)) > 0).sum())))


def matthews(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Matthews correlation of K classes (Gorodkin, 2004, eq. 8); 0 where everything is one class."""
    true, said, total = confusion.sum(1), confusion.sum(0), confusion.sum()
    spread = (total**2 - said @ said) * (total**2 - true @ true)
    return float((np.trace(confusion) * total - true @ said) / np.sqrt(spread)) if spread else 0.0


def roc_auc(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Area under the ROC curve: the chance that a row of the class outranks one of the others, ties counting half.

    Of more than two classes the mean over those that have rows and are not all; NaN without any.
    """
    return _mean([_area(*_curve(one, weights)) for one in rows.orders])


def pr_auc(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Average precision, ``sum_n (R_n - R_(n-1)) P_n`` over falling thresholds.

    Of more than two classes the mean over those that have rows; NaN without any.
    """
    return _mean([_average_precision(*_curve(one, weights)) for one in rows.orders])


def log_loss(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Mean ``-log p(true class)`` in nats."""
    return float(np.average(rows.log_losses, weights=weights))


def brier(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Mean squared distance of the probabilities from the truth; of two classes half of it, which is (1 - p)^2."""
    value = np.average(rows.squared, weights=weights)
    return float(value * 0.5 if rows.probabilities.shape[1] == 2 else value)


def ece(rows: Scored, weights: Floats, confusion: Floats) -> float:
    """Expected calibration error over 15 equal bins of confidence (Guo et al., 2017, eq. 3).

    ``sum_b |sum of right in b - sum of confidence in b| / N``.
    """
    gaps = np.bincount(rows.bins, weights * (rows.right - rows.confidence), minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / weights.sum())


MEASURES: Mapping[str, Measure] = {
    "accuracy": accuracy,
    "macro_f1": mean_f1,
    "micro_f1": accuracy,
    "weighted_f1": weighted_f1,
    "macro_precision": macro_precision,
    "macro_recall": macro_recall,
    "mcc": matthews,
    "roc_auc": roc_auc,
    "pr_auc": pr_auc,
    "log_loss": log_loss,
    "brier": brier,
    "ece": ece,
}
"""Every metric of a classification, by the name that files use."""
RANKS = ("roc_auc", "pr_auc")
"""Those that walk through every row of every class."""


def metrics_of(probabilities: ArrayLike, labels: ArrayLike) -> dict[str, float]:
    """Every metric of a classification.

    Args:
        probabilities: [N, K], each row adding up to 1.
        labels: [N] class numbers, from 0.

    Returns:
        ``MEASURES`` by name. A ranking of rows that are all of one class is NaN; without rows everything is.

    Raises:
        UserError: The arrays do not fit each other, or hold no probabilities.
    """
    rows = Scored.of(probabilities, labels)
    if not len(rows.labels):
        return dict.fromkeys(MEASURES, float("nan"))
    weights = np.ones(len(rows.labels))
    confusion = rows.confusion(weights)
    return {name: measure(rows, weights, confusion) for name, measure in MEASURES.items()}


def _curve(
    order: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]], weights: Floats
) -> tuple[Floats, Floats]:
    """True and false positives at every distinct threshold, falling."""
    rows, ends, true = order
    sorted_weights = weights[rows]
    positives = np.cumsum(sorted_weights * true)[ends]
    return positives, np.cumsum(sorted_weights)[ends] - positives


def _area(positives: Floats, negatives: Floats) -> float:
    if not positives[-1] or not negatives[-1]:
        return float("nan")
    if len(positives) > 2:  # points on a straight line add rounding and nothing else
        corner = (np.diff(positives, 2) != 0) | (np.diff(negatives, 2) != 0)
        keep = np.concatenate([[True], corner, [True]])
        positives, negatives = positives[keep], negatives[keep]
    tpr = np.concatenate([[0.0], positives]) / positives[-1]
    fpr = np.concatenate([[0.0], negatives]) / negatives[-1]
    return float(np.trapezoid(tpr, fpr))


def _average_precision(positives: Floats, negatives: Floats) -> float:
    if not positives[-1]:
        return float("nan")
    said = positives + negatives
    precision = np.divide(positives, said, out=np.zeros_like(said), where=said > 0)
    gained = np.diff(np.concatenate([[0.0], positives / positives[-1]]))
    return float((gained[::-1] * precision[::-1]).sum())


def _mean(values: list[float]) -> float:
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
