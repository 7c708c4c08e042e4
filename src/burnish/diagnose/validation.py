"""What the validation rows say beside the training loss: learning, overfitting, or two losses of different things."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from burnish.core.findings import Finding
from burnish.diagnose.series import Series
from burnish.diagnose.statistics import Floats, trailing_median

WORSE, MUCH_WORSE = 0.12, 0.5
"""A validation loss so far above its lowest is worse; on some fifty rows that of healthy runs moves by a tenth."""
IN_A_ROW, OF_THE_WORST = 3, 2
"""Evaluations that have to be worse, and much worse."""
PASSES = 1.5
"""Passes over the rows before which nothing can have been learnt by heart."""
GAP = 0.5
"""Within the first pass no row was seen twice, so the two losses may differ by this share of the reference only."""
MOST_AHEAD = 2.5
"""And the validation loss may be so many times the training loss."""


def _train_at(series: Series, step: int) -> float:
    """The training loss around an evaluation: the median of the updates before it."""
    n = int(np.searchsorted(series.steps, step, side="right"))
    return float(trailing_median(series.loss[:n], 9)[-1]) if n else float("nan")


def mismatch(series: Series) -> Iterator[Finding]:
    """Validation far worse than training on rows that were each seen once."""
    known = series.epoch[np.isfinite(series.epoch)]
    if not len(known):
        return
    for line, score in zip(series.validation, series.scores, strict=True):
        step = int(line["step"])
        n = int(np.searchsorted(series.steps, step, side="right"))
        if not n or not series.epoch[n - 1] <= 1.0:
            continue
        train = _train_at(series, step)
        if score - train > GAP * abs(series.reference) and score > MOST_AHEAD * train:
            yield Finding(
                "warning", "validation.mismatch", f"the validation loss is {score:.3g} where the training loss is "
                f"{train:.3g}, before any row was seen twice", f"evaluation at step {step}",
                "Rows cannot be known by heart yet. The two losses are not of the same thing: other masks, labels, "
                "another rendering, or other data.",
                "look at rows of both splits with `burnish inspect`, and at which tokens of them are trained",
                {"since": step, "validation": float(score), "training": train},
            )  # fmt: skip
            return


def overfitting(series: Series) -> Iterator[Finding]:
    """A validation loss that turns while the training loss goes on falling."""
    scores = series.scores
    known = series.epoch[np.isfinite(series.epoch)]
    if not len(scores) or (len(known) and known[-1] < PASSES):
        return
    best = int(np.argmin(scores))
    after = scores[best + 1 :]
    if not _lasting(after, scores[best] * (1 + WORSE), IN_A_ROW) and not _lasting(
        after, scores[best] * (1 + MUCH_WORSE), OF_THE_WORST
    ):
        return
    began, now = int(series.validation[best]["step"]), int(series.validation[-1]["step"])
    train_then, train_now = _train_at(series, began), _train_at(series, now)
    if not train_now < train_then or not scores[-1] > train_now:
        return
    yield Finding(
        "warning", "validation.overfitting", f"the validation loss rose from {scores[best]:.3g} to {scores[-1]:.3g} "
        f"since step {began}, while the training loss fell to {train_now:.3g}", f"since step {began}",
        "The rows are learnt by heart; what is new gets worse.",
        f"take the weights of step {began}, with `early_stopping.patience`; fewer epochs, more rows, dropout or a "
        "smaller rank",
        {"since": began, "best": float(scores[best]), "now": float(scores[-1]), "training": train_now,
         "gap": float(scores[-1] - train_now)},
    )  # fmt: skip


def _lasting(scores: Floats, limit: float, count: int) -> bool:
    """Whether the last so many scores are all above a limit."""
    return len(scores) >= count and bool((scores[-count:] > limit).all())


def improving(series: Series) -> Iterator[Finding]:
    """A validation loss that is at its best at the end, or close to it."""
    scores = series.scores
    if len(scores) < 3 or not scores[-1] <= min(scores) * 1.03 or not scores[0] > scores[-1] * 1.02:
        return
    gap = float(scores[-1]) - _train_at(series, int(series.validation[-1]["step"]))
    yield Finding(
        "note", "validation.improving", f"the validation loss fell from {scores[0]:.3g} to {scores[-1]:.3g}, "
        f"{abs(gap):.2g} {'above' if gap > 0 else 'below'} the training loss",
        f"evaluations up to step {int(series.validation[-1]['step'])}", "What is learnt holds on other rows.",
        "", {"since": int(series.validation[0]["step"]), "gap": gap},
    )  # fmt: skip
