"""The plane of task and retention as one SVG, in the colours of a light or a dark page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from burnish.compare.basis import NAMES, better
from burnish.compare.drawing import LETTER, Box, dot, group, label, line, sheet, text
from burnish.compare.front import Option, Place, Weighed
from burnish.core.ticks import tick_labels, ticks

WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 900, 520, 78, 58, 58
NAMED = 190
"""The most room to the right, for the names of points there."""
STYLE = (
    ".point{fill:var(--point)}.front .point{fill:var(--best)}.front .bar{stroke:var(--best);opacity:.55}"
    ".edge{fill:none;stroke:var(--best);stroke-width:1.5;stroke-dasharray:5 4}"
    ".way{fill:none;stroke:var(--soft);stroke-width:1.5}.taken{fill:none;stroke:var(--best);stroke-width:2}"
)


def draw(
    options: Sequence[Option],
    places: dict[str, Place],
    metric: str,
    *,
    tolerance: float,
    taken: str = "",
    joined: bool = False,
) -> str:
    """The drawing: what is kept to the right, the task upwards where more is better. Empty where nothing is measured.

    Args:
        options: All options; those without a measured retention are left out.
        places: Where each stands.
        metric: The metric of the task.
        tolerance: Drawn as a line.
        taken: The option that is recommended, which gets a ring.
        joined: Whether the options are places on one way, which is drawn too.
    """
    shown = [option for option in options if option.kept is not None]
    if not shown:
        return ""
    plane = _Plane(shown, tolerance, better(metric))
    front = sorted((o for o in shown if places[o.label].on_front), key=lambda o: o.kept.value if o.kept else 0)
    parts = [
        text(LEFT, 26, f"{NAMES[metric]} against what the model still knows", "title"),
        text(LEFT, 45, f"bars are 95 % intervals; dashed: the front; dotted: {100 * tolerance:g} % lost", "dim"),
        *plane.axes(),
    ]
    if joined:
        parts.append(_path("way", [plane.at(option) for option in shown]))
    elif len(front) > 1:
        parts.append(_path("edge", [plane.at(option) for option in front]))
    boxes = [(x - 6, x + 6, y - 6, y + 6) for x, y in map(plane.at, shown)]
    parts += [_mark(plane, one, places[one.label].on_front, one.label == taken, boxes) for one in shown]
    name = f"{NAMES[metric]} against retention of {len(shown)} options"
    return sheet(WIDTH, HEIGHT, name, STYLE, parts)


def plane_of(found: Weighed, joined: bool = False) -> str:
    """The drawing of options that are weighed, with the advice marked.

    Args:
        found: The options.
        joined: As of ``draw``.
    """
    taken = found.advice.label if found.advice else ""
    return draw(found.options, found.places, found.metric, tolerance=found.tolerance, taken=taken, joined=joined)


class _Plane:
    """From values to places on the drawing."""

    def __init__(self, shown: Sequence[Option], tolerance: float, sign: float) -> None:
        self.limit, self.sign = 1 - tolerance, sign
        self.right = WIDTH - min(NAMED, 24 + LETTER * max(len(option.label) for option in shown))
        kept = [v for o in shown if o.kept for v in (o.kept.low, o.kept.high)]
        task = [v for o in shown for v in (o.task.low, o.task.high)]
        self.columns, self.rows = ticks(min([*kept, self.limit]), max([*kept, self.limit])), ticks(min(task), max(task))

    def x(self, value: float) -> float:
        low, high = self.columns[0], self.columns[-1]
        return LEFT + (value - low) / (high - low) * (self.right - LEFT)

    def y(self, value: float) -> float:
        low, high = self.rows[0], self.rows[-1]
        share = (value - low) / (high - low)
        return TOP + (1 - share if self.sign > 0 else share) * (HEIGHT - TOP - BOTTOM)

    def at(self, option: Option) -> tuple[float, float]:
        assert option.kept is not None
        return self.x(option.kept.value), self.y(option.task.value)

    def axes(self) -> list[Markup]:
        found, floor = [], HEIGHT - BOTTOM
        shares = tick_labels([100 * share for share in self.columns])
        for across, share in zip(self.columns, shares, strict=True):
            found.append(line("rule", self.x(across), self.x(across), TOP, floor))
            found.append(text(self.x(across), floor + 20, f"{share}%", "dim middle"))
        for up, value in zip(self.rows, tick_labels(self.rows), strict=True):
            found.append(line("rule", LEFT, self.right, self.y(up), self.y(up)))
            found.append(text(LEFT - 10, self.y(up) + 4, value, "dim end"))
        found.append(line("mark", self.x(self.limit), self.x(self.limit), TOP, floor))
        found.append(text((LEFT + self.right) / 2, HEIGHT - 14, "retention (100 %: nothing lost)", "dim middle"))
        return found


def _mark(plane: _Plane, option: Option, on_front: bool, taken: bool, boxes: list[Box]) -> Markup:
    assert option.kept is not None
    x, y = plane.at(option)
    parts = [
        line("bar", plane.x(option.kept.low), plane.x(option.kept.high), y, y),
        line("bar", x, x, plane.y(option.task.low), plane.y(option.task.high)),
        dot("point", x, y, 5.5),
        *([dot("taken", x, y, 10)] if taken else []),
        label(x, y, option.label, boxes),
    ]
    return group("front" if on_front else "", parts)


def _path(style: str, points: Sequence[tuple[float, float]]) -> Markup:
    places = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, places)
