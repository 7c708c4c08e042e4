"""How much of what a model knew is left: 1 where nothing was lost. The one place that knows where this is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from burnish.compare.statistics import Estimate
from burnish.evaluate.retention.change import describe
from burnish.evaluate.retention.rows import make_rows
from burnish.evaluate.retention.score import listen
from burnish.evaluate.retention.sources import read_set
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
    config, loaded = target.config.evaluate.retention, target.loaded
    if not config.on:
        return None
    virtual = target.config.virtual_tokens
    rows = make_rows(read_set(config), loaded, config.max_length, virtual, loaded.classifier is None)
    original = listen(target.view, rows, layers=False)

    def measure() -> Estimate:
        said = listen(target.view, rows, original, layers=False)
        found = headline(describe(rows, original, said, target.config.evaluate.seed))
        assert found is not None
        return found

    return measure
