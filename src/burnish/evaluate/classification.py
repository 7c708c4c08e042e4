"""Accuracy, macro-F1, per-class scores and the confusion matrix, all from one table of counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from burnish.core.task_labels import class_name, numbers_of
from burnish.evaluate.intervals import Counts, Floats, bootstrap_confusion, mcnemar, wilson


@dataclass(frozen=True)
class Classified:
    """The result of a classification.

    Attributes:
        labels: Names of the K classes.
        confusion: [K, K] counts, true class by predicted class.
    """

    labels: tuple[str, ...]
    confusion: Counts

    @classmethod
    def count(cls, labels: Sequence[str], true: ArrayLike, predicted: ArrayLike) -> Classified:
        """Count pairs of true and predicted class numbers."""
        confusion = np.zeros((len(labels), len(labels)), dtype=np.int64)
        np.add.at(confusion, (np.asarray(true, dtype=np.int64), np.asarray(predicted, dtype=np.int64)), 1)
        return cls(tuple(labels), confusion)

    @property
    def accuracy(self) -> float:
        """Share of rows on the diagonal."""
        return float(np.trace(self.confusion) / max(1, self.confusion.sum()))

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1, as ``sklearn.metrics.f1_score(average="macro", zero_division=0)``."""
        return float(macro_f1(self.confusion[None].astype(np.float64))[0])

    def metrics(self, seed: int) -> dict[str, dict[str, float]]:
        """Accuracy with its Wilson interval and macro-F1 with its bootstrap interval."""
        right, total = int(np.trace(self.confusion)), int(self.confusion.sum())
        low, high = wilson(right, total)
        f1_low, f1_high = bootstrap_confusion(self.confusion, macro_f1, seed)
        return {
            "accuracy": {"value": self.accuracy, "low": low, "high": high},
            "macro_f1": {"value": self.macro_f1, "low": f1_low, "high": f1_high},
        }

    def per_class(self) -> dict[str, dict[str, float]]:
        """Precision, recall, F1 and number of rows of each class."""
        matrix = self.confusion.astype(np.float64)
        right, true, said = np.diag(matrix), matrix.sum(1), matrix.sum(0)
        f1 = class_f1(matrix[None])[0]
        return {
            label: {
                "precision": float(right[i] / said[i]) if said[i] else 0.0,
                "recall": float(right[i] / true[i]) if true[i] else 0.0,
                "f1": float(f1[i]),
                "support": int(true[i]),
            }
            for i, label in enumerate(self.labels)
        }

    def to_json(self, seed: int) -> dict[str, Any]:
        """Everything, for ``evaluation.json``."""
        return {"metrics": self.metrics(seed), **self.tables()}

    def tables(self) -> dict[str, Any]:
        """The confusion matrix and the scores of each class."""
        return {
            "confusion": {"labels": list(self.labels), "counts": self.confusion.tolist()},
            "per_class": self.per_class(),
        }


def class_f1(confusions: Floats) -> Floats:
    """F1 of each class, ``2 TP / (true + predicted)``, 0 for a class that is neither; [S, K, K] to [S, K]."""
    right = np.diagonal(confusions, axis1=1, axis2=2)
    sizes = confusions.sum(1) + confusions.sum(2)
    return np.divide(2 * right, sizes, out=np.zeros_like(right), where=sizes > 0)


def macro_f1(confusions: Floats) -> Floats:
    """Mean F1 over the classes that occur as truth or as prediction; [S, K, K] to [S].

    A class that occurs in neither has no F1. ``scikit-learn`` leaves it out too, unless it is named in ``labels``.
    """
    present = (confusions.sum(1) + confusions.sum(2)) > 0
    return class_f1(confusions).sum(1) / np.maximum(1, present.sum(1))


def task_values(classified: Classified, class_tasks: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro-F1 of each task that has rows, as ``macro_f1/TASK``, where tasks have classes of their own."""
    found: dict[str, float] = {}
    for task in dict.fromkeys(class_tasks):
        classes = numbers_of(class_tasks, task)
        part = Classified((), classified.confusion[np.ix_(classes, classes)])
        if part.confusion.sum():
            found |= {class_name("accuracy", task): part.accuracy, class_name("macro_f1", task): part.macro_f1}
    return found


def compare_classified(base_right: ArrayLike, tuned_right: ArrayLike) -> dict[str, float]:
    """Accuracy of tuned minus base on the same rows, with McNemar's exact p-value."""
    base, tuned = np.asarray(base_right, dtype=bool), np.asarray(tuned_right, dtype=bool)
    lost, won = int((base & ~tuned).sum()), int((~base & tuned).sum())
    return {
        "difference": float(tuned.mean() - base.mean()) if len(base) else float("nan"),
        "p_value": mcnemar(lost, won),
        "only_base_right": lost,
        "only_tuned_right": won,
    }
