"""The comparison as one HTML page that needs nothing else, and as a drawing."""

from __future__ import annotations

from pathlib import Path

from markupsafe import Markup

from burnish.compare import words
from burnish.compare.basis import NAMES
from burnish.compare.chart import draw
from burnish.compare.results import Results, verdict
from burnish.compare.templates import filled
from burnish.core.files import write_atomic

TITLE = "Methods compared"


def write_page(results: Results, page: Path, chart: Path) -> None:
    """Write page and drawing, each whole or not at all."""
    svg = draw(results)
    write_atomic(chart, svg)
    write_atomic(page, render(results, svg).encode("utf-8", "replace"))


def render(results: Results, svg: str) -> str:
    """The page as text; every label is escaped."""
    return filled(
        "page.html.j2",
        title=TITLE,
        subject=words.about(results),
        results=results,
        words=words,
        verdict=verdict(results),
        names=NAMES,
        svg=Markup(svg),
        cells=_cells(results),
    )


def _cells(results: Results) -> dict[tuple[str, str], tuple[str, str]]:
    """The table of pairs: text and style of each cell, by row and column."""
    found = {}
    for pair in results.pairs:
        style = "clear" if pair.significant else "alike"
        p = words.p_value(pair)
        value = pair.difference.value
        found[pair.first, pair.second] = (f"{value:+.3f}, {p}", style)
        found[pair.second, pair.first] = (f"{-value:+.3f}, {p}", style)
    return found
