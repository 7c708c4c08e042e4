"""A sweep as a table and as a page: what to take, the rates and their metric, the curves of those that were stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from burnish.compare.front_page import Table, write_page
from burnish.compare.panel import Panel, Trace, draw_panels
from burnish.compare.results import turned
from burnish.compare.space import RATE
from burnish.compare.standings import Line, Sweep
from burnish.compare.words import DASH, arrow, no_difference, p_value

TITLE = "Sweep of settings"
TOGETHER = "together"
WORDS = {"rate": "learning rate", "batch": "batch size", "epochs": "number of epochs"}
SHOWN = 4
"""Trials that a sentence names."""
BESIDE = 11
"""Pixels between trials of one learning rate."""


def table_of(found: Sweep) -> Table:
    """One line for every trial."""
    header = ("trial", found.name, "95 % interval", "updates", "status", "against the best, at one update")
    rows = []
    for line in found.lines:
        one = line.value
        cells = (
            line.label,
            f"{one.value:.3f}" if one else DASH,
            f"{one.low:.3f} to {one.high:.3f}" if one else DASH,
            f"{line.step:,} of {line.total:,}" if one else DASH,
            _standing(line),
            _against(line, found),
        )
        rows.append((cells, line is found.best))
    return Table(header, tuple(rows))


def verdict(found: Sweep) -> list[str]:
    """What may be said, in sentences."""
    best = found.best
    if best is None or best.value is None:
        return ["No trial has come to its first stop yet."]
    one = best.value
    said = [
        f"Take {best.label}: {found.name} {one.value:.3f} on {found.rows:,} {found.split} rows "
        f"(95 % interval {one.low:.3f} to {one.high:.3f})."
    ]
    if not best.ended:
        said = [f"So far {best.label} is ahead, after {best.step:,} of {best.total:,} updates."]
    alike = [line.label for line in found.measured[1:] if line.against and not line.against.significant]
    worse = [line.label for line in found.measured[1:] if line.against and line.against.significant]
    if alike:
        said.append(f"No significant difference to it, as far as both were trained: {_named(alike)}.")
    if worse:
        said.append(f"Significantly behind it, as far as both were trained: {_named(worse)}.")
    return [*said, *importance_words(found), cost_words(found)]


def _named(labels: Sequence[str]) -> str:
    rest = len(labels) - SHOWN
    return "; ".join(labels) if rest < 2 else f"{'; '.join(labels[:SHOWN])}, and {rest} more in the table"


def importance_words(found: Sweep) -> list[str]:
    """Which setting matters, where there is more than one."""
    shares = found.importance
    if len(shares) < 2:
        return []
    single = sorted(((name, share) for name, share in shares.items() if name != TOGETHER), key=lambda x: -x[1])
    (first, most), *others = [(WORDS.get(name, name), share) for name, share in single]
    parts = ", ".join([f"the {first} explains {most:.0%}", *(f"the {name} {share:.0%}" for name, share in others)])
    rest = f"; {shares[TOGETHER]:.0%} come from settings together and from chance"
    return [f"Of the differences between the trials at their first stop, {parts}{rest}."]


def cost_words(found: Sweep) -> str:
    """The work, beside that of the full grid."""
    cost = found.cost
    tested = f", {cost.range_updates} of them for the range test" if cost.range_updates else ""
    grid = f"{cost.grid}: {cost.grid_updates:,} updates on {cost.grid_rows:,} rows"
    every = f", {cost.rows / max(1, cost.candidates_rows):.0%} of training every trial here to its end"
    return (
        f"This took {cost.updates:,} updates on {cost.rows:,} rows{tested}: {cost.share:.0%} of the full grid "
        f"({grid}){'' if cost.grid_rows == cost.candidates_rows else every}."
    )


def caption(found: Sweep) -> str:
    """What the numbers are of."""
    return (
        f"{found.measured_on}, {arrow(found.metric)}, at each trial's best "
        "evaluation; differences are paired by row, p-values corrected for all of them (Holm). The best of several is "
        "chosen by these rows, so that its own value is a little too good: the test rows were not looked at."
    )


def subject(found: Sweep) -> str:
    """Recipe and model in one line."""
    return f"{found.job}, {len(found.lines)} trials"


def write_sweep_page(found: Sweep, path: Path) -> None:
    """Write the page."""
    failed = [(line.label, line.why_not) for line in found.lines if line.why_not]
    write_page(
        path,
        table_of(found),
        draw_panels(panels(found), f"{len(found.lines)} trials of a sweep"),
        title=TITLE,
        subject=subject(found),
        verdict=verdict(found),
        about=caption(found),
        command=f"burnish run RECIPE {' '.join(found.overrides)}" if found.overrides else "",
        notes=[("Failed", failed)] if failed else [],
    )


def panels(found: Sweep) -> list[Panel]:
    """Rates against the metric, and every trial's way."""
    name = found.name
    rates = []
    marks = (
        [(rate, "suggested by the range test")] if (rate := (found.tested.get("suggestion") or {}).get("rate")) else []
    )
    for line in reversed(found.measured):
        if line.value:
            x, one = line.settings[RATE], line.value
            alike = [other.label for other in found.measured if other.settings[RATE] == x]
            shift = BESIDE * (alike.index(line.label) - (len(alike) - 1) / 2)
            bars = [(x, one.low, one.high)]
            rates.append(Trace("", [(x, one.value)], _style(line, found), bars=bars, shift=shift))
    beside = "; side by side: one rate, other settings" if any(trace.shift for trace in rates) else ""
    ways = [Trace(line.label, line.curve, _style(line, found), dots=True) for line in reversed(found.measured)]
    return [
        Panel(f"{name} and learning rate", "learning rate", rates, log=True, marks=marks,
              note=f"hollow: stopped early, where it stood then; bars are 95 % intervals{beside}"),
        Panel(f"{name} while training", "update", ways, note="dashed: stopped early"),
    ]  # fmt: skip


def _style(line: Line, found: Sweep) -> str:
    return "best" if line is found.best else "" if line.ended else "faint"


def _standing(line: Line) -> str:
    if line.why_not:
        return "failed"
    return "came to its end" if line.ended else "stopped early" if line.value else "waits"


def _against(line: Line, found: Sweep) -> str:
    if line is found.best:
        return "best"
    if line.against is None:
        return DASH
    pair = turned(line.against)
    return f"{pair.difference.value:+.3f}, {p_value(pair)}" if pair.significant else no_difference(pair)
