"""What the numbers of a comparison rest on: the metric that decides, and the rows that it is measured on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from burnish.compare.statistics import METRICS, Scored

NAMES = {"macro_f1": "macro-F1", "accuracy": "accuracy", "loss": "loss"}


@dataclass(frozen=True, kw_only=True)
class Basis:
    """The part that all results of this room share.

    Attributes:
        metric: The metric that decides.
        split: The held-out rows that everything is scored on; none of them is trained on.
        rows: How many they are.
        about: What was asked and tried, for people.
    """

    metric: str
    split: str
    rows: int
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The metric as people write it."""
        return NAMES[self.metric]

    @property
    def job(self) -> str:
        """Recipe and model."""
        return f"{self.about.get('recipe', '')}: {self.about.get('model', '')}"

    @property
    def measured_on(self) -> str:
        """Metric and rows in words."""
        return f"{self.name} on {self.rows:,} {self.split} rows"

    def basis(self) -> dict[str, Any]:
        """The beginning of a file of results."""
        return {"about": self.about, "metric": self.metric, "split": self.split, "rows": self.rows}


def settled(metric: str, scored: Scored | None) -> str:
    """The metric that rows can be compared by: the loss where it is none of ``METRICS``, or they have no classes."""
    return metric if metric in METRICS and scored is not None and scored.classes else "loss"


def seeds_in_words(count: int) -> str:
    """As many as it says."""
    return "1 seed" if count == 1 else f"{count} seeds"


def better(metric: str) -> float:
    """1 where more of a metric is better, -1 where less is."""
    return 1.0 if METRICS[metric][1] else -1.0
