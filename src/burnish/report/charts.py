"""Line charts as inline SVG: axes with round ticks, gaps where a value is missing, and the data for the pointer."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from burnish.core.ticks import log_ticks, ticks, widen
from burnish.report.numbers import general

LARGE, SMALL = (520, 270), (360, 210)
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 14, 38
MOST_POINTS = 500
LOG_FROM = 6.0
"""The greatest value over the least from which on a curve is easier to read on a logarithmic scale."""

Point = tuple[float, float | None]


@dataclass(frozen=True)
class Series:
    """One curve.

    Attributes:
        name: What it is.
        points: Pairs of x and y in the order of x; a y of None is a gap.
        style: CSS class: ``raw``, ``smooth``, ``valid`` or ``second``.
        dots: Whether each point is marked.
    """

    name: str
    points: Sequence[Point]
    style: str = "smooth"
    dots: bool = False


@dataclass(frozen=True)
class Chart:
    """A chart, ready for the page.

    Attributes:
        title: Its heading.
        caption: What a reader needs to know.
        series: Its curves.
        svg: The drawing.
        data: What the pointer shows, as JSON.
        size: ``major`` or ``minor``.
        legend: Whether the page lists the curves.
    """

    title: str
    caption: str
    series: Sequence[Series]
    svg: Markup
    data: str
    size: str
    legend: bool


@dataclass(frozen=True)
class Frame:
    """From values to places in the drawing.

    Attributes:
        width: Of the drawing.
        height: Of the drawing.
        x_range: Values at the left and the right edge.
        y_range: Values at the lower and the upper edge.
        y_ticks: Values with a line.
        log: Whether equal distances up the y axis are equal factors.
    """

    width: int
    height: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    y_ticks: Sequence[float] = ()
    log: bool = False

    def x(self, value: float) -> float:
        """Distance from the left."""
        low, high = self.x_range
        return LEFT + (value - low) / (high - low) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Distance from the top."""
        low, high = self.y_range
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.height - BOTTOM - (value - low) / (high - low) * (self.height - TOP - BOTTOM)


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    caption: str = "",
    x_label: str = "update",
    best: tuple[float, float] | None = None,
    large: bool = False,
    from_zero: bool = False,
    log: bool = False,
    legend: bool = True,
) -> Chart | None:
    """Draw curves over one axis; None where no series has a point.

    Args:
        title: Heading.
        series: Curves, those at the back first.
        caption: Below the drawing.
        x_label: Name of the x axis.
        best: A point to mark as the best one.
        large: Draw in the large size.
        from_zero: Let the y axis begin at zero.
        log: Let the y axis be logarithmic where the values are positive and span more than ``LOG_FROM``.
        legend: Let the page list the curves; else the caption tells them apart.
    """
    series = [s for s in series if any(y is not None for _, y in s.points)]
    if not series:
        return None
    frame = fit(series, LARGE if large else SMALL, from_zero, log)
    if frame.log:
        caption = f"{caption} Logarithmic scale.".strip()
    parts = [_grid(frame, x_label), *(_curve(frame, s) for s in series)]
    if best:
        parts.append(_best(frame, best))
    parts.append(Markup('<line class="hair" y1="{}" y2="{}" hidden=""/>').format(TOP, frame.height - BOTTOM))
    label = describe(title, series, best)
    svg = Markup('<svg viewBox="0 0 {} {}" role="img" tabindex="0" aria-label="{}">{}</svg>').format(
        frame.width, frame.height, label, Markup("").join(parts)
    )
    return Chart(title, caption, series, svg, _data(frame, series), "major" if large else "minor", legend)


def fit(series: Sequence[Series], size: tuple[int, int], from_zero: bool = False, log: bool = False) -> Frame:
    """The frame around all points: x exactly, y out to the next round tick."""
    xs = [x for s in series for x, _ in s.points]
    ys = [y for s in series for _, y in s.points if y is not None]
    x_range = widen(min(xs), max(xs))
    if log and min(ys) > 0 and max(ys) > LOG_FROM * min(ys):
        return Frame(*size, x_range, *log_ticks(min(ys), max(ys)), log=True)
    steps = ticks(min(0.0, *ys) if from_zero else min(ys), max(ys))
    return Frame(*size, x_range, (steps[0], steps[-1]), steps)


def smooth(values: Sequence[float | None], span: float) -> list[float | None]:
    """Exponential moving average, ``s_t = b s_(t-1) + (1 - b) y_t`` with ``b = 1 - 2 / (span + 1)``.

    It is divided by ``1 - b^t``, so that it starts at the first value; a missing value leaves a gap.
    """
    keep = 1 - 2 / (span + 1)
    total, weight = 0.0, 0.0
    result: list[float | None] = []
    for value in values:
        if value is None:
            result.append(None)
            continue
        total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        result.append(total / weight)
    return result


def thin(values: Sequence[float | None], most: int = MOST_POINTS) -> list[int]:
    """Positions to draw: all, or of each stretch the least and the greatest, so that no spike is lost."""
    count = len(values)
    if count <= most:
        return list(range(count))
    chosen = {0, count - 1}
    for part in range(most // 2):
        stretch = range(part * count // (most // 2), (part + 1) * count // (most // 2))
        known = [(value, i) for i in stretch if (value := values[i]) is not None]
        chosen.update((min(known)[1], max(known)[1]) if known else (stretch[0],))
    return sorted(chosen)


def describe(title: str, series: Sequence[Series], best: tuple[float, float] | None) -> str:
    """The chart in words, for those who do not see it."""
    told = []
    for one in series:
        known = [(x, y) for x, y in one.points if y is not None]
        (x0, y0), (x1, y1) = known[0], known[-1]
        told.append(f"{one.name} from {general(y0)} at {general(x0)} to {general(y1)} at {general(x1)}")
    marked = f"; best: {general(best[1])} at {general(best[0])}" if best else ""
    return f"{title}: {'; '.join(told)}{marked}."


def _grid(frame: Frame, x_label: str) -> Markup:
    line = Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    text = Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>')
    floor, right = frame.height - BOTTOM, frame.width - RIGHT
    parts: list[Markup] = []
    for value in frame.y_ticks:
        y = frame.y(value)
        parts.append(line.format("rule", LEFT, right, y, y))
        parts.append(text.format("ty", LEFT - 8, y + 4, _tick(value)))
    for value in ticks(*frame.x_range, wanted=5 if frame.width == LARGE[0] else 4):
        if frame.x_range[0] <= value <= frame.x_range[1] and value == round(value):
            x = frame.x(value)
            parts.append(line.format("base", x, x, floor, floor + 4))
            parts.append(text.format("tx", x, floor + 18, _tick(value)))
    parts.append(line.format("base", LEFT, right, floor, floor))
    parts.append(text.format("label", right, frame.height - 4, x_label))
    return Markup("").join(parts)


def _tick(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 and value == round(value) else general(0.0 if value == 0 else value)


def _curve(frame: Frame, series: Series) -> Markup:
    stretches: list[list[tuple[float, float]]] = [[]]
    for x, y in series.points:
        if y is None:
            stretches.append([])
        else:
            stretches[-1].append((frame.x(x), frame.y(y)))
    drawn = [s for s in stretches if s]
    path = "".join("M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in s) for s in drawn if len(s) > 1)
    dots = [p for s in drawn if series.dots or len(s) == 1 for p in s]
    marks = Markup("").join(
        Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(series.style, x, y) for x, y in dots
    )
    return (Markup('<path class="curve {}" d="{}"/>').format(series.style, path) if path else Markup("")) + marks


def _best(frame: Frame, best: tuple[float, float]) -> Markup:
    x, y = frame.x(best[0]), frame.y(best[1])
    title = f"best: {general(best[1])} at {general(best[0])}"
    room = x < frame.width - 90
    up = y - 12 if y > TOP + 30 else y + 20
    return Markup(
        '<g class="best"><title>{}</title><circle cx="{:.1f}" cy="{:.1f}" r="6.5"/>'
        '<text x="{:.1f}" y="{:.1f}" text-anchor="{}">best</text></g>'
    ).format(title, x, y, x, up, "middle" if room and x > LEFT + 24 else "start" if room else "end")


def _data(frame: Frame, series: Sequence[Series]) -> str:
    """Names, values and the frame, for the script."""
    xs = sorted({x for s in series for x, _ in s.points})
    lookup = [dict(s.points) for s in series]
    return json.dumps(
        {
            "x": xs,
            "range": frame.x_range,
            "frame": [LEFT, frame.width - RIGHT, frame.width],
            "series": [
                {"name": s.name, "style": s.style, "y": [_short(d.get(x)) for x in xs]}
                for s, d in zip(series, lookup, strict=True)
            ],
        },
        allow_nan=False,
        separators=(",", ":"),
    )


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")
