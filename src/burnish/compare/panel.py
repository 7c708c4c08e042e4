"""Small drawings of a sweep, a range test or a learning curve: panels below each other, in one SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from burnish.core.ticks import log_ticks, ticks, widen

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 380, 74, 190, 54, 52
STYLE = Markup(
    "svg{--paper:#fff;--ink:#1f2430;--soft:#6b7280;--rule:#e4e0d8;--bar:#9aa5b8;--point:#6b7380;--best:#d9622b}"
    "@media(prefers-color-scheme:dark){svg{--paper:#1c1f22;--ink:#e8e5df;--soft:#a3a8af;--rule:#33373c;--bar:#5d6673;"
    "--point:#a3a8af;--best:#e9a46f}}"
    "text{font:13px system-ui,sans-serif;fill:var(--ink)}.title{font-size:16px;font-weight:600}"
    ".dim{fill:var(--soft);font-size:12px}.middle{text-anchor:middle}.end{text-anchor:end}.rule{stroke:var(--rule)}"
    ".line{fill:none;stroke:var(--point);stroke-width:1.5}.bar{stroke:var(--bar);stroke-width:2}"
    ".dot{fill:var(--point)}.best .line{stroke:var(--best);stroke-width:2.5}.best .bar{stroke:var(--best);opacity:.55}"
    ".best .dot{fill:var(--best)}.faint .line{stroke:var(--bar);stroke-width:1.2;stroke-dasharray:5 3}"
    ".faint .dot{fill:var(--paper);stroke:var(--point)}.band{fill:var(--best);opacity:.14}.back{fill:var(--paper)}"
    ".mark{stroke:var(--ink);stroke-dasharray:2 4}"
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
    """

    name: str
    points: Sequence[Point]
    style: str = ""
    line: bool = True
    dots: bool = False
    bars: Sequence[tuple[float, float, float]] = ()


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
    height = HEIGHT * len(shown)
    parts = [
        Markup('<g transform="translate(0 {})">{}</g>').format(i * HEIGHT, Markup("").join(_Frame(panel).parts()))
        for i, panel in enumerate(shown)
    ]
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
            'aria-label="{2}"><style>{3}</style><rect class="back" width="{0}" height="{1}"/>{4}</svg>\n'
        ).format(WIDTH, height, name, STYLE, Markup("").join(parts))
    )


class _Frame:
    """From values to places in a panel."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
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
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.y_ends
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def parts(self) -> list[Markup]:
        panel, floor, right = self.panel, HEIGHT - BOTTOM, WIDTH - RIGHT
        parts = [_text(LEFT, 24, panel.title, "title"), _text(LEFT, 42, panel.note, "dim")]
        for value in self.y_ticks:
            parts.append(_line("rule", LEFT, right, self.y(value), self.y(value)))
            parts.append(_text(LEFT - 10, self.y(value) + 4, f"{value:.4g}", "dim end"))
        for value in self.x_ticks:
            if self.x_ends[0] <= value <= self.x_ends[1]:
                parts.append(_line("rule", self.x(value), self.x(value), TOP, floor))
                parts.append(_text(self.x(value), floor + 18, _plain(value), "dim middle"))
        parts.append(_text((LEFT + right) / 2, floor + 38, panel.x_label, "dim middle"))
        if panel.band:
            upper = [(self.x(x), self.y(high)) for x, _, high in panel.band]
            lower = [(self.x(x), self.y(low)) for x, low, _ in reversed(panel.band)]
            parts.append(Markup('<path class="band" d="{}Z"/>').format(_way([*upper, *lower])))
        for place, word in panel.marks:
            parts.append(_line("mark", self.x(place), self.x(place), TOP, floor))
            parts.append(_text(self.x(place) + 5, TOP + 12, word, "dim"))
        return parts + self._traces()

    def _traces(self) -> list[Markup]:
        found, taken = [], list[float]()
        for trace in self.panel.traces:
            places = [(self.x(x), self.y(y)) for x, y in trace.points if math.isfinite(y)]
            if not places:
                continue
            parts = [_line("bar", self.x(x), self.x(x), self.y(low), self.y(high)) for x, low, high in trace.bars]
            if trace.line and len(places) > 1:
                parts.append(Markup('<path class="line" d="{}"/>').format(_way(places)))
            if trace.dots or len(places) == 1:
                parts += [
                    Markup('<circle class="dot" cx="{:.1f}" cy="{:.1f}" r="4.5"/>').format(x, y) for x, y in places
                ]
            if trace.name:
                y = places[-1][1]
                while any(abs(y - other) < 14 for other in taken):
                    y += 14
                taken.append(y)
                parts.append(_text(WIDTH - RIGHT + 10, y + 4, trace.name))
            found.append(Markup('<g class="{}">{}</g>').format(trace.style, Markup("").join(parts)))
        return found


def _way(places: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _plain(value: float) -> str:
    return (
        f"{value:,.0f}"
        if value == round(value) and abs(value) < 1e7
        else f"{value:.0e}"
        if value < 1e-3
        else f"{value:g}"
    )


def _line(style: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(style, x1, x2, y1, y2)


def _text(x: float, y: float, text: str, style: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)
