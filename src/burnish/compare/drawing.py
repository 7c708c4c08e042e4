"""What every drawing of a comparison is made of: a sheet, lines and words, in the colours of a light or dark page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup

STYLE = Markup(
    "svg{--paper:#fff;--ink:#1f2430;--soft:#6b7280;--rule:#e4e0d8;--bar:#9aa5b8;--point:#6b7380;--best:#d9622b}"
    "@media(prefers-color-scheme:dark){svg{--paper:#1c1f22;--ink:#e8e5df;--soft:#a3a8af;--rule:#33373c;--bar:#5d6673;"
    "--point:#a3a8af;--best:#e9a46f}}"
    "text{font:13px system-ui,sans-serif;fill:var(--ink)}.title{font-size:16px;font-weight:600}"
    ".dim{fill:var(--soft);font-size:12px}.middle{text-anchor:middle}.end{text-anchor:end}.rule{stroke:var(--rule)}"
    ".bar{stroke:var(--bar);stroke-width:2}.mark{stroke:var(--ink);stroke-dasharray:2 4}.back{fill:var(--paper)}"
)
"""Colours, and the classes that all drawings use."""

LETTER, ROW = 8, 16
"""No narrower than a letter is on average, and as high as a line of words."""


def sheet(width: int, height: int, name: str, style: str, parts: Iterable[Markup]) -> str:
    """An SVG that is a file of its own, or a part of a page.

    Args:
        width: In pixels.
        height: In pixels.
        name: The drawing in words, for those who do not see it.
        style: Further classes.
        parts: What lies on the sheet.
    """
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
            'aria-label="{2}"><style>{3}{4}</style><rect class="back" width="{0}" height="{1}"/>{5}</svg>\n'
        ).format(width, height, name, STYLE, Markup(style), Markup("").join(parts))
    )


def line(style: str, x1: float, x2: float, y1: float, y2: float) -> Markup:
    """A straight line of a class."""
    return Markup('<line class="{}" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>').format(style, x1, x2, y1, y2)


def text(x: float, y: float, words: str, style: str = "") -> Markup:
    """Words whose base line begins at a place, or ends or lies about it with the classes ``end`` and ``middle``."""
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, words)


def dot(style: str, x: float, y: float, radius: float) -> Markup:
    """A circle of a class."""
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="{:g}"/>').format(style, x, y, radius)


def group(style: str, parts: Iterable[Markup]) -> Markup:
    """Parts that belong together, under a class."""
    return Markup('<g class="{}">{}</g>').format(style, Markup("").join(parts))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places for words below each other, as near as possible to where they are wanted and never closer than a gap.

    Args:
        wanted: Where each would stand alone, from the top.
        gap: Least distance of two.
        low: The highest place, as far as there is room.
        high: The lowest place.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = [0.0] * len(wanted)
    above = low - gap
    for i in order:
        above = found[i] = max(wanted[i], above + gap)
    below = high + gap
    for i in reversed(order):
        below = found[i] = min(found[i], below - gap)
    return found


Box = tuple[float, float, float, float]
"""Left, right, upper and lower edge."""


def label(x: float, y: float, words: str, taken: list[Box]) -> Markup:
    """Words beside a point, at the first of its four corners where nothing else is; their box is added to ``taken``.

    Args:
        x: Of the point.
        y: Of the point.
        words: Its name.
        taken: Boxes of other points and words.
    """
    width, boxes = LETTER * len(words), []
    for side, down in ((1, -9), (1, 19), (-1, -9), (-1, 19)):
        start = x + 12 if side > 0 else x - 12 - width
        boxes.append((side, y + down, (start, start + width, y + down - ROW + 4, y + down + 2)))
    side, base, box = next((one for one in boxes if not any(_meet(one[2], other) for other in taken)), boxes[0])
    taken.append(box)
    return text(x + 12 * side, base, words, "" if side > 0 else "end")


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[1] and other[0] < one[1] and one[2] < other[3] and other[2] < one[3]
