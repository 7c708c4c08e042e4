"""A range test of the learning rate as a page: the loss against the rate, with the suggestion marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from burnish.compare.front_page import Table, write_page
from burnish.compare.panel import Panel, Trace, draw_panels
from burnish.diagnose.rates import smooth, written
from burnish.train.lr_range import RangeTest

TITLE = "Range test of the learning rate"
MOST = 1.5
"""Losses above so many times the first smoothed one are cut off: what diverges would flatten the rest."""


def write_rate_page(found: RangeTest, path: Path, *, subject: str) -> None:
    """Write the page.

    Args:
        found: The test.
        path: The file.
        subject: Recipe and model.
    """
    finding = found.finding()
    places = (("suggested", found.suggestion.rate), ("steepest fall", found.suggestion.steepest),
              ("lowest loss", found.suggestion.turn), ("the recipe's", found.recipe_rate))  # fmt: skip
    rows = tuple(((name, f"{rate:.2g}"), name == "suggested") for name, rate in places if rate)
    taken = found.suggestion.rate
    write_page(
        path,
        Table(("", "learning rate"), rows),
        draw_panels([panel(found)], "loss and learning rate"),
        title=TITLE,
        subject=subject,
        verdict=[f"{finding.what[:1].upper()}{finding.what[1:]}.", finding.why],
        about=f"{len(found.rates)} updates with a rising rate; {found.ended}. The weights were thrown away.",
        command=f"burnish run RECIPE train.learning_rate={written(taken)}" if taken else "",
    )


def panel(found: RangeTest) -> Panel:
    """The loss of every update, the smoothed loss, and the rates that stand out."""
    smoothed = smooth(np.asarray(found.losses, dtype=np.float64))
    top = MOST * float(smoothed[0])
    raw = [(rate, loss) for rate, loss in zip(found.rates, found.losses, strict=True) if loss <= top]
    curve = [(rate, float(loss)) for rate, loss in zip(found.rates, smoothed, strict=True) if loss <= top]
    marks = [
        (rate, word) for rate, word in ((found.suggestion.rate, "suggested"), (found.recipe_rate, "recipe")) if rate
    ]
    inside = [mark for mark in marks if found.rates[0] <= mark[0] <= found.rates[-1]]
    traces = [Trace("each update", raw, "faint", line=False, dots=True), Trace("smoothed", curve, "best")]
    return Panel("Loss while the rate rises", "learning rate", traces, log=True, marks=inside)
