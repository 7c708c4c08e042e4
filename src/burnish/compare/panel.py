"""Small drawings of a sweep, a range test or a learning curve: panels below each other, in one SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from burnish.compare.drawing import LETTER, ROW, dot, group, line, sheet, spread, text
from burnish.core.ticks import log_ticks, tick_labels, ticks, widen

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 380, 74, 54, 52
INSET = 10
"""From the frame to points that are shifted."""
SAMPLE, BARE, NAMED = 52, 30, 380
"""Room to the right of a panel: for the sample before a name, without names, and the most for names."""
STYLE = (
    ".line{fill:none;stroke:var(--point);stroke-width:1.5}.dot{fill:var(--point)}"
    ".best .line{stroke:var(--best);stroke-width:2.5}.best .bar{stroke:var(--best);opacity:.55}"
    ".best .dot{fill:var(--best)}.faint .line{stroke:var(--bar);stroke-width:1.2;stroke-dasharray:5 3}"
    ".faint .dot{fill:var(--paper);stroke:var(--point)}.band{fill:var(--best);opacity:.14}"
    ".best .name{fill:var(--best);font-weight:600}.lead{stroke:var(--bar);stroke-dasharray:1 4}"
)

Point = tuple[float, float]


@dataclass(frozen=True)
class Trace:
    """One curve, or some points.

    Attributes:
        name: Written at its last point; empty for none.
        points: In the order of x.
        style: ``best``, ``faint``, or empty.
        line: Whether the points are joined.
        dots: Whether each is marked.
        bars: Intervals: x, low and high.
        shift: Pixels to the right, for traces that would lie on each other.
    """

    name: str
    points: Sequence[Point]
    style: str = ""
    line: bool = True
    dots: bool = False
    bars: Sequence[tuple[float, float, float]] = ()
    shift: float = 0.0


@dataclass(frozen=True)
class Panel:
    """One drawing.

    Attributes:
        title: Its heading.
        x_label: Name of the x axis.
        traces: What it shows, those at the back first.
        log: Whether the x axis is logarithmic.
        marks: Dotted lines at places of x, with a word each.
        band: A filled interval: x, low and high.
        note: A line below the heading.
    """

    title: str
    x_label: str
    traces: Sequence[Trace]
    log: bool = False
    marks: Sequence[tuple[float, str]] = ()
    band: Sequence[tuple[float, float, float]] = ()
    note: str = ""


def draw_panels(panels: Sequence[Panel], name: str) -> str:
    """The panels that have points, below each other; empty where none has."""
    shown = [panel for panel in panels if any(trace.points for trace in panel.traces)]
    if not shown:
        return ""
    parts = [
        Markup('<g transform="translate(0 {})">{}</g>').format(i * HEIGHT, Markup("").join(_Frame(panel).parts()))
        for i, panel in enumerate(shown)
    ]
    return sheet(WIDTH, HEIGHT * len(shown), name, STYLE, parts)


class _Frame:
    """From values to places in a panel."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        longest = max((len(trace.name) for trace in panel.traces), default=0)
        self.right = WIDTH - (min(NAMED, SAMPLE + LETTER * longest) if longest else BARE)
        widest = max((abs(trace.shift) for trace in panel.traces), default=0.0)
        self.inset = widest + INSET if widest else 0.0
        points = [point for trace in panel.traces for point in trace.points if math.isfinite(point[1])]
        spans = [bar for trace in panel.traces for bar in trace.bars] + list(panel.band)
        xs = [x for x, _ in points] + [x for x, _, _ in spans] + [x for x, _ in panel.marks]
        ys = [y for _, y in points] + [y for _, low, high in spans for y in (low, high) if math.isfinite(y)]
        self.y_ticks = ticks(min(ys), max(ys))
        self.y_ends = self.y_ticks[0], self.y_ticks[-1]
        if panel.log:
            spread = 1.0 if max(xs) > min(xs) else 2.0
            self.x_ends, self.x_ticks = log_ticks(min(xs) / spread, max(xs) * spread)
        else:
            self.x_ends, self.x_ticks = widen(min(xs), max(xs)), ticks(min(xs), max(xs))

    def x(self, value: float) -> float:
        low, high = self.x_ends
        if self.panel.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        width = self.right - LEFT - 2 * self.inset
        return LEFT + self.inset + (value - low) / (high - low) * width

    def y(self, value: float) -> float:
        low, high = self.y_ends
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def parts(self) -> list[Markup]:
        panel, floor, right = self.panel, HEIGHT - BOTTOM, self.right
        parts = [text(LEFT, 24, panel.title, "title"), text(LEFT, 42, panel.note, "dim")]
        for value, label in zip(self.y_ticks, tick_labels(self.y_ticks), strict=True):
            parts.append(line("rule", LEFT, right, self.y(value), self.y(value)))
            parts.append(text(LEFT - 10, self.y(value) + 4, label, "dim end"))
        for value in self.x_ticks:
            if self.x_ends[0] <= value <= self.x_ends[1]:
                parts.append(line("rule", self.x(value), self.x(value), TOP, floor))
                parts.append(text(self.x(value), floor + 18, _plain(value), "dim middle"))
        parts.append(text((LEFT + right) / 2, floor + 38, panel.x_label, "dim middle"))
        if panel.band:
            upper = [(self.x(x), self.y(high)) for x, _, high in panel.band]
            lower = [(self.x(x), self.y(low)) for x, low, _ in reversed(panel.band)]
            parts.append(Markup('<path class="band" d="{}Z"/>').format(_way([*upper, *lower])))
        return [*parts, *self._marks(), *self._traces()]

    def _marks(self) -> list[Markup]:
        """Dotted lines with their words, beside the line and below each other; one line for marks at one place."""
        words: dict[float, list[str]] = {}
        for value, word in self.panel.marks:
            words.setdefault(round(self.x(value), 1), []).append(word)
        found = []
        for number, (x, said) in enumerate(sorted(words.items())):
            together = " = ".join(said)
            fits = x + LETTER * len(together) < self.right
            found.append(line("mark", x, x, TOP, HEIGHT - BOTTOM))
            style = "dim" if fits else "dim end"
            found.append(text(x + (5 if fits else -5), TOP + 12 + ROW * number, together, style))
        return found

    def _traces(self) -> list[Markup]:
        found = []
        named = [trace for trace in self.panel.traces if trace.name and self._places(trace)]
        heights = spread([self._places(trace)[-1][1] for trace in named], ROW, TOP, HEIGHT - BOTTOM)
        names = {id(trace): y for trace, y in zip(named, heights, strict=True)}
        for trace in self.panel.traces:
            places = self._places(trace)
            if not places:
                continue
            bars = [(self.x(x) + trace.shift, self.y(low), self.y(high)) for x, low, high in trace.bars]
            parts = [line("bar", x, x, low, high) for x, low, high in bars]
            if trace.line and len(places) > 1:
                parts.append(Markup('<path class="line" d="{}"/>').format(_way(places)))
            if trace.dots or len(places) == 1:
                parts += [dot("dot", x, y, 4.5) for x, y in places]
            if trace.name:
                parts += self._name(trace, places, names[id(trace)])
            found.append(group(trace.style, parts))
        return found

    def _places(self, trace: Trace) -> list[Point]:
        return [(self.x(x) + trace.shift, self.y(y)) for x, y in trace.points if math.isfinite(y)]

    def _name(self, trace: Trace, places: Sequence[Point], y: float) -> list[Markup]:
        """The name at the right edge behind a sample of its line or mark; a trail leads to it from a curve that ends
        before."""
        x, (end, height) = self.right + 10, places[-1]
        parts = [line("lead", end + 7, x, height, y)] if end < self.right - 40 else []
        if trace.line and len(places) > 1:
            parts.append(Markup('<path class="line" d="{}"/>').format(_way([(x, y), (x + 20, y)])))
        if trace.dots or len(places) == 1:
            parts.append(dot("dot", x + 10, y, 4.5))
        return [*parts, text(x + 28, y + 4, trace.name, "name")]


def _way(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _plain(value: float) -> str:
    if value == round(value) and abs(value) < 1e7:
        return f"{value:,.0f}"
    return f"{value:.0e}" if abs(value) < 1e-4 else f"{value:g}"
