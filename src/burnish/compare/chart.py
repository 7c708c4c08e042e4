"""The qualities as one SVG: for every variant a point, its interval, and a small mark for each seed."""

from __future__ import annotations

from markupsafe import Markup

from burnish.compare.results import Line, Results
from burnish.compare.words import quality, title
from burnish.core.ticks import ticks

WIDTH, ROW, TOP, LEFT, RIGHT = 900, 34, 64, 210, 60
STYLE = Markup(
    "text{font:13px system-ui,sans-serif;fill:#1f2430}.title{font-size:16px;font-weight:600}"
    ".dim{fill:#6b7280;font-size:12px}.end{text-anchor:end}.middle{text-anchor:middle}"
    ".range{stroke:#9aa5b8;stroke-width:3;stroke-linecap:round}.point{fill:#6b7380}"
    ".best .range{stroke:#e3a583}.best .point{fill:#d9622b}.seed{fill:none;stroke:#1f2430;stroke-width:1;opacity:.55}"
    ".rule{stroke:#e4e0d8}.base{stroke:#6b7380;stroke-dasharray:4 4}.back{fill:#fff}"
)


def draw(results: Results) -> str:
    """The drawing. The best is marked; so is what the untouched model reaches, or the most frequent class."""
    lines = results.measured
    values = [v for line in lines for v in _span(line, results.metric)]
    mark = results.base.value if results.base else results.majority
    shown = values + (
        [mark] if mark is not None and values and min(values) - mark < 2 * (max(values) - min(values)) else []
    )
    rules = ticks(min(shown, default=0.0), max(shown, default=1.0))
    low, high = rules[0], rules[-1]
    height = TOP + ROW * len(lines) + 40

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    parts = [Markup('<rect class="back" width="{}" height="{}"/>').format(WIDTH, height)]
    parts.append(_text(20, 28, title(results), "title"))
    parts.append(_text(20, 48, "mean over the seeds, 95 % interval over seeds and rows; a ring for each seed", "dim"))
    floor = TOP + ROW * len(lines)
    for value in rules:
        parts.append(_line("rule", x(value), x(value), TOP, floor))
        parts.append(_text(x(value), floor + 18, f"{value:.10g}", "dim middle"))
    if mark is not None and mark in shown:
        name = "untouched base" if results.base else "most frequent class"
        parts.append(_line("base", x(mark), x(mark), TOP, floor))
        parts.append(_text(x(mark), floor + 34, name, "dim middle"))
    for number, line in enumerate(lines):
        one, y = line.quality[results.metric], TOP + ROW * number + ROW / 2
        rings = Markup("").join(
            Markup('<circle class="seed" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(x(v), y) for v in one.seeds
        )
        row = [
            _text(LEFT - 14, y + 4, line.label, "end"),
            _line("range", x(one.low), x(one.high), y, y),
            Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="5.5"/>').format(x(one.value), y),
            rings,
            _text(WIDTH - RIGHT + 10, y + 4, quality(one)),
        ]
        parts.append(Markup('<g class="{}">{}</g>').format("best" if number == 0 else "", Markup("").join(row)))
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
            'aria-label="{2}"><style>{3}</style>{4}</svg>\n'
        ).format(WIDTH, height, title(results), STYLE, Markup("").join(parts))
    )


def _span(line: Line, metric: str) -> list[float]:
    one = line.quality[metric]
    return [one.low, one.high, *one.seeds]


def _line(style: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(style, x1, x2, y1, y2)


def _text(x: float, y: float, text: str, style: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)
