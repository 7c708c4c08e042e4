"""The plane of task and retention as one SVG, in the colours of a light or a dark page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from burnish.compare.front import Option, Place, better
from burnish.compare.results import NAMES
from burnish.core.ticks import ticks

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 520, 78, 190, 58, 58
STYLE = Markup(
    "svg{--paper:#fffdfa;--ink:#1f2430;--soft:#6b7280;--rule:#e4e0d8;--bar:#9aa5b8;--point:#6b7380;--front:#d9622b}"
    "@media(prefers-color-scheme:dark){svg{--paper:#1c1f22;--ink:#e8e5df;--soft:#a3a8af;--rule:#33373c;--bar:#5d6673;"
    "--point:#a3a8af;--front:#e9a46f}}"
    "text{font:13px system-ui,sans-serif;fill:var(--ink)}.title{font-size:16px;font-weight:600}"
    ".dim{fill:var(--soft);font-size:12px}.middle{text-anchor:middle}.end{text-anchor:end}.rule{stroke:var(--rule)}"
    ".bar{stroke:var(--bar);stroke-width:2}.point{fill:var(--point)}.front .point{fill:var(--front)}"
    ".front .bar{stroke:var(--front);opacity:.55}.edge{fill:none;stroke:var(--front);stroke-width:1.5;"
    "stroke-dasharray:5 4}.way{fill:none;stroke:var(--soft);stroke-width:1.5}.limit{stroke:var(--ink);"
    "stroke-dasharray:2 4}.back{fill:var(--paper)}.taken{fill:none;stroke:var(--front);stroke-width:2}"
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
    parts = [Markup('<rect class="back" width="{}" height="{}"/>').format(WIDTH, HEIGHT)]
    parts.append(_text(LEFT, 26, f"{NAMES[metric]} against what the model still knows", "title"))
    parts.append(_text(LEFT, 45, "bars are 95 % intervals; the dashed line is the front; dotted: the tolerance", "dim"))
    parts += plane.axes(NAMES[metric])
    if joined:
        parts.append(_path("way", [plane.at(option) for option in shown]))
    elif len(front) > 1:
        parts.append(_path("edge", [plane.at(option) for option in front]))
    parts += [_mark(plane, option, places[option.label].on_front, option.label == taken) for option in shown]
    name = f"{NAMES[metric]} against retention of {len(shown)} options"
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
            'aria-label="{2}"><style>{3}</style>{4}</svg>\n'
        ).format(WIDTH, HEIGHT, name, STYLE, Markup("").join(parts))
    )


class _Plane:
    """From values to places on the drawing."""

    def __init__(self, shown: Sequence[Option], tolerance: float, sign: float) -> None:
        self.limit, self.sign = 1 - tolerance, sign
        kept = [v for o in shown if o.kept for v in (o.kept.low, o.kept.high)]
        task = [v for o in shown for v in (o.task.low, o.task.high)]
        self.columns, self.rows = ticks(min([*kept, self.limit]), max([*kept, self.limit])), ticks(min(task), max(task))

    def x(self, value: float) -> float:
        low, high = self.columns[0], self.columns[-1]
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self.rows[0], self.rows[-1]
        share = (value - low) / (high - low)
        return TOP + (1 - share if self.sign > 0 else share) * (HEIGHT - TOP - BOTTOM)

    def at(self, option: Option) -> tuple[float, float]:
        assert option.kept is not None
        return self.x(option.kept.value), self.y(option.task.value)

    def axes(self, name: str) -> list[Markup]:
        found, floor = [], HEIGHT - BOTTOM
        for across in self.columns:
            found.append(_line("rule", self.x(across), self.x(across), TOP, floor))
            found.append(_text(self.x(across), floor + 20, f"{100 * across:.10g}%", "dim middle"))
        for up in self.rows:
            found.append(_line("rule", LEFT, WIDTH - RIGHT, self.y(up), self.y(up)))
            found.append(_text(LEFT - 10, self.y(up) + 4, f"{up:.10g}", "dim end"))
        found.append(_line("limit", self.x(self.limit), self.x(self.limit), TOP, floor))
        found.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, "retention (100 %: nothing lost)", "dim middle"))
        return found


def _mark(plane: _Plane, option: Option, on_front: bool, taken: bool) -> Markup:
    assert option.kept is not None
    x, y = plane.at(option)
    parts = [
        _line("bar", plane.x(option.kept.low), plane.x(option.kept.high), y, y),
        _line("bar", x, x, plane.y(option.task.low), plane.y(option.task.high)),
        Markup('<circle class="point" cx="{:.1f}" cy="{:.1f}" r="5.5"/>').format(x, y),
        Markup('<circle class="taken" cx="{:.1f}" cy="{:.1f}" r="10"/>').format(x, y) if taken else Markup(""),
        _text(x + 12, y - 9, option.label),
    ]
    return Markup('<g class="{}">{}</g>').format("front" if on_front else "", Markup("").join(parts))


def _path(style: str, points: Sequence[tuple[float, float]]) -> Markup:
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return Markup('<polyline class="{}" points="{}"/>').format(style, text)


def _line(style: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(style, x1, x2, y1, y2)


def _text(x: float, y: float, text: str, style: str = "") -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, text)
