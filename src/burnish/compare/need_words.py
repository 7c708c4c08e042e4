"""What a learning curve answers, in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.compare.basis import NAMES, Basis
from burnish.plan.learning_curve import FAR, Interval, LearningCurve

TOLD = "cannot tell"


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        question: What was asked.
        known: Whether there is an answer.
        words: The answer, or why there is none.
        value: The number with its interval.
    """

    question: str
    known: bool
    words: str
    value: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        value = self.value.to_json() if self.value else None
        return {"question": self.question, "known": self.known, "words": self.words, "value": value}


@dataclass(frozen=True, kw_only=True)
class Need(Basis):
    """What was found.

    Attributes:
        values: Quality by number of training rows, one for each seed.
        passes: Passes over the rows by their number.
        curve: Through the qualities; None until all sizes are trained.
        answers: To the questions.
        failed: Why sizes have no numbers.
    """

    values: dict[int, tuple[float, ...]]
    passes: dict[int, str]
    curve: LearningCurve | None
    answers: tuple[Answer, ...]
    failed: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For ``data-need.json``."""
        return {
            **self.basis(),
            "sizes": [{"rows": n, "values": list(v), "passes": self.passes[n]} for n, v in self.values.items()],
            "curve": self.curve.to_json() if self.curve else None,
            "answers": [one.to_json() for one in self.answers],
            "failed": self.failed,
        }


def answers(
    curve: LearningCurve, metric: str, targets: Sequence[float] = (), rows: Sequence[int] = ()
) -> tuple[Answer, ...]:
    """Twice the data, and whatever else was asked.

    Args:
        curve: The learning curve.
        metric: Its quality.
        targets: Qualities whose number of rows is asked.
        rows: Numbers of rows whose quality is asked.
    """
    name, largest = NAMES[metric], int(curve.sizes[-1])
    if curve.why_not:
        why = f"{TOLD}, because {curve.why_not}"
        asked = ["twice the data", *(f"{t:g}" for t in targets), *(f"{n:,} rows" for n in rows)]
        return tuple(Answer(question, False, why) for question in asked)
    return (
        expectation(curve, name, 2 * largest, "with twice the data"),
        *(expectation(curve, name, n, "with") for n in rows),
        *(need(curve, name, target) for target in targets),
    )


def expectation(curve: LearningCurve, name: str, size: int, phrase: str) -> Answer:
    """The quality of a training on so many rows."""
    question, largest = f"{size:,} rows", float(curve.sizes[-1])
    if size > FAR * largest:
        why = f"{TOLD} for {question}, because they are more than {FAR:g} times the {largest:,.0f} that were measured"
        return Answer(question, False, why)
    value = curve.at(size)
    where = f"{phrase}, {question}," if phrase != "with" else f"{phrase} {question}"
    words = (
        f"{where} expect {name} {value.value:.3f} ({value.low:.3f} to {value.high:.3f}); "
        f"{largest:,.0f} gave {curve.means[-1]:.3f}"
    )
    return Answer(question, True, words, value)


def need(curve: LearningCurve, name: str, target: float) -> Answer:
    """The rows for a quality."""
    question, largest = f"{name} {target:g}", float(curve.sizes[-1])
    best = curve.best
    assert best is not None
    sign = best.sign
    if sign * (float(curve.means[-1]) - target) >= 0:
        reached = next(n for n, q in zip(curve.sizes, curve.means, strict=True) if sign * (q - target) >= 0)
        words = f"{question} is reached with {reached:,.0f} rows, as measured"
        return Answer(question, True, words, Interval(float(reached), float(reached), float(reached)))
    value = curve.sizes_for(target)
    if not math.isfinite(value.value):
        end = curve.end
        reachable = sign * (end.high if sign > 0 else end.low) > sign * target
        why = f"the curve ends at {end.value:.3f} ({end.low:.3f} to {end.high:.3f}), "
        why += "so that rows alone may not lead there" if reachable else "and rows alone do not lead beyond it"
        return Answer(question, False, f"{TOLD} for {question}, because {why}", value)
    if value.value > FAR * largest:
        why = f"it lies beyond {FAR:g} times the {largest:,.0f} rows that were measured"
        return Answer(question, False, f"{TOLD} for {question}, because {why}", value)
    high = f"{_digits(value.high):,.0f}" if math.isfinite(value.high) else "never"
    words = f"for {question} you need about {_digits(value.value):,.0f} rows ({_digits(value.low):,.0f} to {high})"
    return Answer(question, True, words, value)


def _digits(number: float) -> float:
    """Two digits: more would be a pretence."""
    return float(f"{number:.1e}")
