"""What the loop knows of itself between two updates; all of it fits in a checkpoint's JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

HIGHER_IS_BETTER = {"loss": False, "accuracy": True, "macro_f1": True, "mae": False, "rmse": False}
"""Whichever is not named here is better when it is higher."""


@dataclass
class TrainState:
    """Counters of a run. Order of rows, learning rate and dropout follow from ``step`` and the seed alone.

    Attributes:
        step: Updates done.
        best_step: The step of the best evaluation, None before the first.
        best_value: Its value.
        bad_evaluations: Evaluations since then without improvement.
        evaluated_step: The last step that was evaluated, so that a resumed run does not evaluate it twice.
        tokens: Real tokens seen, padding not counted.
        trained_tokens: Tokens that carried loss.
        skipped_steps: Updates that fp16 loss scaling skipped after an overflow.
        seconds: Time spent in updates.
        rate_factor: What a callback had the learning rate multiplied by so far.
        rate_lowered: The step at which it did so last, None before the first time.
        reason: Why the loop ended; empty while it runs.
    """

    step: int = 0
    best_step: int | None = None
    best_value: float | None = None
    bad_evaluations: int = 0
    evaluated_step: int | None = None
    tokens: int = 0
    trained_tokens: int = 0
    skipped_steps: int = 0
    seconds: float = 0.0
    rate_factor: float = 1.0
    rate_lowered: int | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """All counters."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> TrainState:
        """Read what ``to_json`` wrote; counters added since then keep their default."""
        known = {f.name for f in fields(cls)}
        return cls(**{k: v for k, v in values.items() if k in known})

    def lower(self, factor: float) -> None:
        """Lower the learning rate of all updates to come."""
        self.rate_factor *= factor
        self.rate_lowered = self.step

    def record(self, metric: str, value: float, min_improvement: float) -> bool:
        """Take note of an evaluation; say whether it is the best so far.

        A value that is not finite never is. The first finite one always is.
        """
        self.evaluated_step = self.step
        gain = float("-inf")
        if value == value and abs(value) != float("inf"):
            sign = 1.0 if HIGHER_IS_BETTER.get(metric, True) else -1.0
            gain = float("inf") if self.best_value is None else sign * (value - self.best_value)
        if gain > min_improvement:
            self.best_step, self.best_value, self.bad_evaluations = self.step, value, 0
            return True
        self.bad_evaluations += 1
        return False
