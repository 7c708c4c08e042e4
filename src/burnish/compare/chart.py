"""The qualities as one SVG: for every variant a point, its interval, and a small mark for each seed."""

from __future__ import annotations

from burnish.compare.drawing import LETTER, dot, group, line, sheet, text
from burnish.compare.results import Line, Results
from burnish.compare.words import quality, title
from burnish.core.ticks import tick_labels, ticks

WIDTH, LINE, TOP, RIGHT = 900, 34, 64, 60
NAMED = 380
"""The most room to the left, for the names of the variants."""
STYLE = (
    ".range{stroke:var(--bar);stroke-width:3;stroke-linecap:round}.point{fill:var(--point)}"
    ".best .range{stroke:var(--best);opacity:.55}.best .point{fill:var(--best)}"
    ".seed{fill:none;stroke:var(--ink);stroke-width:1;opacity:.55}.base{stroke:var(--point);stroke-dasharray:4 4}"
)


def draw(results: Results) -> str:
    """The drawing. The best is marked; so is what the untouched model reaches, or the most frequent class."""
    lines = results.measured
    values = [v for one in lines for v in _span(one, results.metric)]
    mark = results.base.value if results.base else results.majority
    shown = values + (
        [mark] if mark is not None and values and min(values) - mark < 2 * (max(values) - min(values)) else []
    )
    rules = ticks(min(shown, default=0.0), max(shown, default=1.0))
    low, high = rules[0], rules[-1]
    left = min(NAMED, 34 + LETTER * max((len(one.label) for one in lines), default=0))
    height = TOP + LINE * len(lines) + 40

    def x(value: float) -> float:
        return left + (value - low) / (high - low) * (WIDTH - left - RIGHT)

    parts = [
        text(20, 28, title(results), "title"),
        text(20, 48, "mean over the seeds, 95 % interval over seeds and rows; a ring for each seed", "dim"),
    ]
    floor = TOP + LINE * len(lines)
    for value, label in zip(rules, tick_labels(rules), strict=True):
        parts.append(line("rule", x(value), x(value), TOP, floor))
        parts.append(text(x(value), floor + 18, label, "dim middle"))
    if mark is not None and mark in shown:
        name = "untouched base" if results.base else "most frequent class"
        parts.append(line("base", x(mark), x(mark), TOP, floor))
        parts.append(text(x(mark), floor + 34, name, "dim middle"))
    for number, one in enumerate(lines):
        measured, y = one.quality[results.metric], TOP + LINE * number + LINE / 2
        row = [
            text(left - 14, y + 4, one.label, "end"),
            line("range", x(measured.low), x(measured.high), y, y),
            dot("point", x(measured.value), y, 5.5),
            *(dot("seed", x(value), y, 3) for value in measured.seeds),
            text(WIDTH - RIGHT + 10, y + 4, quality(measured)),
        ]
        parts.append(group("best" if number == 0 else "", row))
    return sheet(WIDTH, height, title(results), STYLE, parts)


def _span(shown: Line, metric: str) -> list[float]:
    one = shown.quality[metric]
    return [one.low, one.high, *one.seeds]
