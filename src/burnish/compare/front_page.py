"""Options between task and retention as a table, in a terminal or on a page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from burnish.compare.basis import seeds_in_words
from burnish.compare.front import Option, Place, Weighed
from burnish.compare.templates import filled
from burnish.compare.words import DASH, arrow
from burnish.core.files import write_atomic

CHANGES = "changes of the recipe"
LEFT = ("stands", "status", "trained for", "against the best, at one update", CHANGES)


@dataclass(frozen=True)
class Table:
    """What is shown of the options.

    Attributes:
        header: Names of the columns.
        rows: Cells, and whether the row is the one that is recommended.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], bool], ...]


def table_of(
    found: Weighed,
    *,
    first: str,
    facts: Mapping[str, Sequence[str]] | None = None,
    fact_names: Sequence[str] = (),
) -> Table:
    """One line for every option.

    Args:
        found: The options.
        first: Name of the first column.
        facts: Further cells by label.
        fact_names: Their columns.
    """
    measured = any(option.kept is not None for option in found.options)
    kept = ("kept", "95 % interval ", "stands") if measured else ()
    header = (first, found.name, "95 % interval", *kept, *fact_names)
    rows = []
    for option in found.options:
        cells = (
            option.label,
            f"{option.task.value:.3f}",
            f"{option.task.low:.3f} to {option.task.high:.3f}",
            *(_kept(option, found.places[option.label]) if measured else ()),
            *(facts or {}).get(option.label, ()),
        )
        rows.append((cells, found.advice is not None and option.label == found.advice.label))
    return Table(header, tuple(rows))


def _kept(option: Option, place: Place) -> tuple[str, str, str]:
    kept = option.kept
    if kept is None:
        return DASH, DASH, DASH
    return f"{kept.value:.1%}", f"{kept.low:.1%} to {kept.high:.1%}", standing(place)


def standing(place: Place) -> str:
    """Where an option stands, in words."""
    if place.on_front:
        return "on the front"
    return f"beaten by {place.beaten_by}" + ("" if place.clearly else ", within the noise")


def caption(found: Weighed, seeds: int) -> str:
    """What the numbers are of."""
    words = f"{found.measured_on}, {seeds_in_words(seeds)}, {arrow(found.metric)}"
    if all(option.kept is None for option in found.options):
        return words
    return f"{words}; kept: what is left of what the original knew, 100 % where nothing was lost"


def write_page(
    path: Path,
    table: Table,
    svg: str,
    *,
    title: str,
    subject: str,
    verdict: Sequence[str],
    about: str,
    command: str = "",
    notes: Sequence[tuple[str, Sequence[tuple[str, str]]]] = (),
) -> None:
    """Write the page, whole or not at all; every label is escaped.

    Args:
        path: The file.
        table: Its table.
        svg: Its drawing.
        title: Its heading.
        subject: Recipe and model.
        verdict: What may be said, in sentences.
        about: What the numbers of the table are of.
        command: What to run now.
        notes: What failed and why: a heading with names and reasons.
    """
    text = filled(
        "front.html.j2",
        title=title,
        subject=subject,
        verdict=verdict,
        svg=Markup(svg),
        caption=about,
        header=table.header,
        left=LEFT,
        rows=[{"cells": cells, "taken": taken} for cells, taken in table.rows],
        command=command,
        notes=notes,
    )
    write_atomic(path, text.encode("utf-8", "replace"))
