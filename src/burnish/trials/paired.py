"""Scores of several runs on the same rows, and their differences with intervals. Shapes: N rows, K classes, S draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.evaluate.classification import macro_f1
from burnish.evaluate.resample import Draws, Weights, confusions, ends, multiplicities

Cells = NDArray[np.int64]
RESAMPLES = 1000


@dataclass(frozen=True)
class Answers:
    """What one run answered on the held-out rows.

    Attributes:
        labels: Names of the K classes.
        true: [N] numbers of the true classes.
        predicted: [N] numbers of the answers.
        ids: Names of the rows.
    """

    labels: tuple[str, ...]
    true: Cells
    predicted: Cells
    ids: tuple[str, ...]

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, object]], model: str = "model") -> Answers:
        """From the lines of a `predictions.jsonl`.

        Args:
            rows: The lines.
            model: Whose answers: the key of the lines that holds them.
        """
        true = [str(row["target"]).strip() for row in rows]
        predicted = [str(row[model]["predicted"]).strip() for row in rows]  # type: ignore[index]
        labels = tuple(sorted({*true, *predicted}))
        place = {label: i for i, label in enumerate(labels)}
        numbers = [np.asarray([place[name] for name in names], dtype=np.int64) for names in (true, predicted)]
        return cls(labels, numbers[0], numbers[1], tuple(str(row["id"]) for row in rows))

    def confusions(self, weights_SN: Weights) -> NDArray[np.float64]:
        """[S, K, K] the confusion matrix of every draw of rows."""
        return confusions(self.true, self.predicted, len(self.labels), weights_SN)

    @property
    def macro_f1(self) -> float:
        """Mean of the classes' F1."""
        return float(macro_f1(self.confusions(np.ones((1, len(self.true)))))[0])

    @property
    def accuracy(self) -> float:
        """Share of right answers."""
        return float((self.true == self.predicted).mean())


def paired_difference(
    without: Sequence[Answers], with_: Sequence[Answers], seed: int = 0, draws: int = RESAMPLES
) -> tuple[float, float, float]:
    """Macro-F1 with minus without, meant over the seeds, and its 95 % percentile interval.

    Rows are drawn with replacement, the same ones for all runs, and so are the seeds: the interval holds both what
    hangs on the rows and what hangs on the order and the initialisation.

    Args:
        without: The runs without, one for each seed.
        with_: The runs with, for the same seeds in the same order.
        seed: Seed of the draws.
        draws: How many.

    Raises:
        UserError: The runs were scored on different rows.
    """
    rows = without[0].ids
    if any(answers.ids != rows for answers in (*without, *with_)) or len(without) != len(with_):
        raise UserError("the runs were scored on different rows, so that they cannot be compared", fix="run them again")
    weights = Draws(len(rows), draws, seed)
    differences = np.stack(
        [macro_f1(b.confusions(weights)) - macro_f1(a.confusions(weights)) for a, b in zip(without, with_, strict=True)]
    )
    seeds = multiplicities(len(without), draws, np.random.default_rng((seed, 1))) / len(without)
    values = (seeds * differences.T).sum(1)
    mean = float(np.mean([b.macro_f1 - a.macro_f1 for a, b in zip(without, with_, strict=True)]))
    return mean, *ends(values)


def verdict(low: float, high: float) -> str:
    """What an interval of a difference says."""
    if low > 0:
        return "helps"
    return "harms" if high < 0 else "no difference shown"
