"""A learning curve as a table and as a page."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from burnish.compare.basis import seeds_in_words
from burnish.compare.front_page import Table, write_page
from burnish.compare.need_words import Need
from burnish.compare.panel import Panel, Trace, draw_panels
from burnish.compare.words import arrow
from burnish.plan.learning_curve import FAR, LearningCurve

ENDS = {"loss": (0.0, math.inf), "accuracy": (0.0, 1.0), "macro_f1": (0.0, 1.0)}
"""Values that a metric can have: an interval is not drawn beyond them."""
TITLE = "How much data the task needs"


def table_of(found: Need) -> Table:
    """One line for every size."""
    curve = found.curve if found.curve and found.curve.best else None
    rows = []
    for size, values in found.values.items():
        fitted = f"{curve.best.at(size)[0]:.3f}" if curve and curve.best else "–"
        cells = (
            f"{size:,}",
            f"{np.mean(values):.3f}",
            ", ".join(f"{v:.3f}" for v in values),
            fitted,
            found.passes[size],
        )
        rows.append((cells, False))
    return Table(("rows", found.name, "each seed", "curve", "trained for"), tuple(rows))


def verdict(found: Need) -> list[str]:
    """The answers, and what they rest on."""
    if found.curve is None:
        return [f"{len(found.values)} of {len(found.about['sizes'])} sizes are trained; the curve takes all of them."]
    said = [one.words[:1].upper() + one.words[1:] + "." for one in found.answers]
    return [*dict.fromkeys(said), *check_words(found.curve)]


def check_words(curve: LearningCurve) -> list[str]:
    """How the largest size was predicted from the smaller ones."""
    if not curve.checks or not curve.family:
        return []
    one = curve.checks[curve.family]
    others = ", ".join(f"{name} {c.expected.value:.3f}" for name, c in curve.checks.items() if name != curve.family)
    expected = f"{one.expected.value:.3f} (95 % interval {one.expected.low:.3f} to {one.expected.high:.3f})"
    words = (
        f"The {curve.family} curve through the smaller sizes expects {expected} for the largest, where {one.found:.3f} "
        f"was measured; other curves: {others}."
    )
    return [words]


def caption(found: Need) -> str:
    """What the numbers are of."""
    least = found.about["least_updates"]
    return (
        f"{found.measured_on}, {arrow(found.metric)}, {seeds_in_words(found.about['seeds'])}; the same rows "
        "for all sizes, and none of them is trained on. A smaller size is part of a larger one. Sizes too small for "
        f"{least:,} updates get more passes. Intervals are for one further training scored on these rows."
    )


def subject(found: Need) -> str:
    """Recipe and model in one line."""
    return f"{found.job}, {len(found.about['sizes'])} sizes"


def write_need_page(found: Need, path: Path) -> None:
    """Write the page."""
    write_page(
        path,
        table_of(found),
        draw_panels([panel(found)], "learning curve"),
        title=TITLE,
        subject=subject(found),
        verdict=verdict(found),
        about=caption(found),
        notes=[("Failed", sorted(found.failed.items()))] if found.failed else [],
    )


def panel(found: Need) -> Panel:
    """The measured qualities, and the curve with its interval as far as it says something."""
    name, curve = found.name, found.curve
    seeds = [Trace("", [(n, v)], "faint") for n, values in found.values.items() for v in values]
    means = Trace("measured", [(n, float(np.mean(v))) for n, v in found.values.items()], line=False, dots=True)
    if curve is None or curve.best is None:
        return Panel(f"{name} and training rows", "training rows", [*seeds, means], log=True)
    last = float(curve.sizes[-1]) * (1.0 if curve.why_not else min(8.0, FAR))
    xs = np.geomspace(curve.sizes[0], last, 60)
    least, most = ENDS[found.metric]
    expected = [curve.at(x) for x in xs]
    band = [(float(x), max(one.low, least), min(one.high, most)) for x, one in zip(xs, expected, strict=True)]
    best = curve.best
    fitted = Trace(f"{curve.family} curve", [(float(x), float(best.at(x)[0])) for x in xs], "best")
    note = "rings: each seed; the band holds 95 % of further trainings"
    return Panel(f"{name} and training rows", "training rows", [*seeds, fitted, means], True, (), band, note)
