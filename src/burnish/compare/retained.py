"""How much of what a model knew is left: 1 where nothing was lost. The one place that knows where this is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from burnish.compare.statistics import Estimate
from burnish.train.folder import RunFolder
from burnish.train.rescore import Target

Meter = Callable[[], Estimate]
"""Scores a model as it is now against the original."""


def read_retained(path: Path) -> Estimate | None:
    """The retention of a finished run with its interval; None where it was not measured."""
    evaluation = RunFolder(path).read("evaluation.json") or {}
    return headline(evaluation.get("retention"))


def headline(found: Any) -> Estimate | None:
    """The one number of a retention report, `{value, low, high}`, wherever it stands in it."""
    if not isinstance(found, Mapping):
        return None
    change = found.get("change")
    places = (change.get("score") if isinstance(change, Mapping) else None, found.get("retention"), found)
    for place in places:
        if isinstance(place, Mapping) and {"value", "low", "high"} <= place.keys():
            value = float(place["value"])
            return Estimate(value, float(place["low"]), float(place["high"]), (value,))
    return None


def meter_of(target: Target) -> Meter | None:
    """What scores an opened model on the retention set of its recipe, the model being its original now.

    None where nothing is measured.
    """
    return None
