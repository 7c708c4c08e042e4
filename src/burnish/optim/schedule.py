"""Learning rates as pure functions of the update's number: nothing to save, nothing to restore."""

from __future__ import annotations

import math
from collections.abc import Callable

from burnish.core.errors import UserError
from burnish.optim.config import DEFAULT_WARMUP_RATIO, OptimConfig

DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "linear": lambda progress: 1.0 - progress,
    "constant": lambda progress: 1.0,
}
"""Share of the peak left after a share ``progress`` in [0, 1] of the updates behind the warm-up."""


def warmup_length(total_steps: int, config: OptimConfig) -> int:
    """Updates of the warm-up: ``warmup_steps``, or ``ceil(warmup_ratio * total_steps)``.

    Raises:
        UserError: The warm-up would not end before the run does.
    """
    if config.warmup_steps is None:
        ratio = DEFAULT_WARMUP_RATIO if config.warmup_ratio is None else config.warmup_ratio
        # round() first: 0.07 * 100 is 7.000000000000001 and must not become 8
        return min(math.ceil(round(ratio * total_steps, 9)), max(total_steps - 1, 0))
    if config.warmup_steps >= total_steps:
        raise UserError(
            f"a warm-up of {config.warmup_steps} updates does not end before the run of {total_steps} does",
            where="train.warmup_steps",
            fix="lower it, give `train.warmup_ratio` in its place, or train longer",
        )
    return config.warmup_steps


def learning_rate_factor(step: int, total_steps: int, config: OptimConfig) -> float:
    """Share of the peak learning rate at update ``step``, counted from 0.

    With warm-up w, total T, floor m and decay f:

        step < w:   (step + 1) / (w + 1)
        otherwise:  m + (1 - m) * f((step - w) / (T - w))

    This is the schedule of ``transformers`` read one update later, with w + 1 and T + 1 in place of w and T. There,
    the first update of a warm-up has learning rate 0 and changes nothing; here every update counts.

    Args:
        step: Number of the update, from 0.
        total_steps: Updates of the whole run.
        config: Schedule, warm-up and floor.
    """
    warmup = warmup_length(total_steps, config)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
    floor = config.min_learning_rate_ratio
    return floor + (1.0 - floor) * DECAYS[config.schedule](progress)


def learning_rate_at(step: int, total_steps: int, config: OptimConfig, learning_rate: float | None = None) -> float:
    """Learning rate of update ``step``: the peak times ``learning_rate_factor``.

    Args:
        step: Number of the update, from 0.
        total_steps: Updates of the whole run.
        config: Schedule; its ``learning_rate`` is the peak.
        learning_rate: The peak where the configuration leaves it to the method.

    Raises:
        ValueError: Neither names a peak.
    """
    return resolved_learning_rate(config, learning_rate) * learning_rate_factor(step, total_steps, config)


def resolved_learning_rate(config: OptimConfig, default: float | None = None) -> float:
    """The peak learning rate: the configured one, or else the method's default.

    Raises:
        ValueError: There is neither.
    """
    peak = config.learning_rate if config.learning_rate is not None else default
    if peak is None:
        raise ValueError("no learning rate: give one, or set it in the configuration")
    return peak
