"""The comparison as one SVG file: a bar per contender, with a whisker from its slowest round to its fastest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from burnish.benchmarks.compare import Line

WIDTH, ROW, TOP, LEFT, RIGHT = 900, 54, 64, 20, 370
BAR = 16
GIB = 1 << 30
MOST_LETTERS = 110
STYLE = Markup(
    "text{font:13px system-ui,sans-serif;fill:#1f2430}.title{font-size:17px;font-weight:600}"
    ".dim{fill:#6b7280}.bar{fill:#9aa5b8}.ours{fill:#d9622b}.whisker{stroke:#1f2430;stroke-width:1.5}"
    ".why{fill:#9b2c2c;font-size:12px}.back{fill:#fff}"
)


def draw(title: str, titles: Mapping[str, str], lines: Sequence[Line]) -> str:
    """The drawing: tokens per second, with what Burnish is faster by, peak memory and held-out score beside it.

    Args:
        title: Of the job.
        titles: Of the contenders, by name.
        lines: The comparison.
    """
    rates = [line.spreads["tokens_per_second"].maximum for line in lines if not line.why_not]
    scale = (WIDTH - LEFT - RIGHT) / max(rates, default=1.0)
    height = TOP + ROW * len(lines) + 10
    parts = [
        Markup('<rect class="back" width="{}" height="{}"/>').format(WIDTH, height),
        _text(LEFT, 28, title, "title"),
        _text(LEFT, 48, "tokens per second: median as a bar, slowest and fastest round as a whisker", "dim"),
    ]
    for number, line in enumerate(lines):
        parts += _row(TOP + ROW * number, line, titles.get(line.name, line.name), scale)
    drawing = Markup("").join(parts)
    return str(
        Markup(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {0} {1}" width="{0}" height="{1}" role="img" '
            'aria-label="{2}"><style>{3}</style>{4}</svg>\n'
        ).format(WIDTH, height, title, STYLE, drawing)
    )


def _row(y: int, line: Line, title: str, scale: float) -> list[Markup]:
    name = _text(LEFT, y + 16, title)
    if line.why_not:
        return [name, _text(LEFT, y + 35, shortened(line.why_not), "why")]
    rate = line.spreads["tokens_per_second"]
    style = "bar ours" if line.name == "burnish" else "bar"
    bar = Markup('<rect class="{}" x="{}" y="{}" width="{:.1f}" height="{}" rx="2"/>')
    middle = y + 23 + BAR / 2
    ends = (LEFT + rate.minimum * scale, LEFT + rate.maximum * scale)
    whisker = Markup('<line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="{:.1f}" y2="{:.1f}"/>')
    return [
        name,
        bar.format(style, LEFT, y + 23, rate.median * scale, BAR),
        whisker.format(*ends, middle, middle),
        *(whisker.format(x, x, middle - 5, middle + 5) for x in ends),
        _text(int(ends[1]) + 10, y + 36, numbers(line)),
    ]


def numbers(line: Line) -> str:
    """What stands beside a bar."""
    parts = [f"{line.spreads['tokens_per_second'].median:,.0f}"]
    if line.faster and line.name != "burnish":
        parts.append(f"Burnish {line.faster.median:.2f} × as fast")
    if "peak_bytes" in line.spreads:
        parts.append(f"{line.spreads['peak_bytes'].median / GIB:.1f} GiB")
    if "held_out_accuracy" in line.spreads:
        parts.append(f"accuracy {line.spreads['held_out_accuracy'].median:.3f}")
    elif "held_out_loss" in line.spreads:
        parts.append(f"loss {line.spreads['held_out_loss'].median:.3f}")
    return " · ".join(parts)


def shortened(text: str) -> str:
    """As much of a text as fits across the drawing."""
    return text if len(text) <= MOST_LETTERS else text[: MOST_LETTERS - 1] + "…"


def _text(x: int, y: int, text: str, style: str = "") -> Markup:
    return Markup('<text class="{}" x="{}" y="{}">{}</text>').format(style, x, y, text)
