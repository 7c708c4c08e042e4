"""Experiment trackers (TensorBoard, W&B, MLflow) through `accelerate`; off unless the recipe names one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import get_available_trackers

from burnish.core.errors import UserError
from burnish.core.events import Evaluated, Event, Finished, Retained, Stepped


class TrackerCallback:
    """Hands the metrics of a run to trackers.

    Args:
        names: ``tensorboard``, ``wandb`` or ``mlflow``.
        folder: The run folder; local logs go to its ``trackers``.
        recipe: The resolved recipe, stored as the run's configuration.

    Raises:
        UserError: A tracker is not installed.
    """

    def __init__(self, names: Sequence[str], folder: Path, recipe: Mapping[str, Any]) -> None:
        refuse_missing(names)
        self.accelerator = Accelerator(log_with=list(names), project_dir=str(folder / "trackers"))
        # trackers take flat values of simple types only
        flat = {key: value if isinstance(value, (int, float, bool)) else str(value) for key, value in flatten(recipe)}
        self.accelerator.init_trackers(folder.name, config=flat)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self.accelerator.log({f"train/{k}": v for k, v in event.metrics.items()}, step=event.step)
        elif isinstance(event, Evaluated):
            self.accelerator.log({f"validation/{k}": v for k, v in event.metrics.items()}, step=event.step)
        elif isinstance(event, Retained):
            self.accelerator.log({f"retention/{k}": v for k, v in event.metrics.items()}, step=event.step)
        elif isinstance(event, Finished):
            self.accelerator.end_training()


def refuse_missing(names: Sequence[str]) -> None:
    """Refuse trackers that are not installed, before anything was trained."""
    available = {str(tracker) for tracker in get_available_trackers()}
    missing = [name for name in names if name not in available]
    if missing:
        raise UserError(
            f"not installed: {', '.join(missing)}",
            where="trackers",
            fix=f"pip install {' '.join(missing)}, or drop it from `trackers`",
        )


def flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested settings as dotted names."""
    pairs: list[tuple[str, Any]] = []
    for key, value in values.items():
        name = f"{prefix}{key}"
        pairs += flatten(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return pairs
