"""How options between task and retention look in a terminal, and how their settings are read."""

from __future__ import annotations

import json as encoder
from collections.abc import Sequence

import typer
from rich.console import Console
from rich.table import Table as Shown
from rich.text import Text

from burnish.compare.afterwards import Afterwards
from burnish.compare.front_page import LEFT, Table, caption, table_of, write_page
from burnish.compare.plane import plane_of
from burnish.core.errors import UserError
from burnish.core.files import finite

WIDE = 150
ABOUT = {"interpolation": "; alpha 0 is the original and alpha 1 the tuned model", "average": ""}
TITLES = {"interpolation": "Between the original and the tuned model", "average": "Averaged checkpoints"}


def read_share(text: str) -> float:
    """A share such as `1%` or `0.01`.

    Raises:
        UserError: It is none.
    """
    try:
        value = float(text.strip().removesuffix("%")) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UserError(f"`{text}` is no share", where="--tolerance", fix="write it as `1%` or `0.01`")
    return value


def read_alphas(text: str) -> list[float]:
    """Numbers between commas.

    Raises:
        UserError: One is none.
    """
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(f"`{text}` is no list of numbers", where="--alphas", fix="write `0,0.25,0.5,1`") from None


def show_table(console: Console, table: Table) -> None:
    """Print the options; the one that is recommended is marked."""
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDE, highlight=False)
    shown = Shown(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(table.header):
        words = name in LEFT  # sentences give way, numbers are shown whole
        shown.add_column(name.strip(), justify="left" if number == 0 or words else "right", no_wrap=not words)
    for cells, taken in table.rows:
        shown.add_row(*(Text(cell, style="bold green" if taken else "") for cell in cells))
    console.print(shown)


def show_words(console: Console, words: Sequence[str]) -> None:
    """Print sentences, the first one strongly."""
    for number, sentence in enumerate(words):
        console.print(Text(sentence, style="bold green" if number == 0 else ""), soft_wrap=True)


def show_afterwards(result: Afterwards, *, as_json: bool) -> int:
    """Print and write what came of a finished run."""
    advice = result.advice
    table = table_of(result, first="weights")
    svg = plane_of(result, joined=result.kind == "interpolation")
    page = result.run / f"{result.kind}.html"
    about, words = f"{caption(result, 1)}{ABOUT[result.kind]}", advice.words if advice else ()
    write_page(page, table, svg, title=TITLES[result.kind], subject=str(result.run), verdict=words, about=about)
    if as_json:
        typer.echo(encoder.dumps(finite(result.to_json()), ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    show_words(console, words)
    console.print(Text(f"\n{about}", style="dim"), soft_wrap=True)
    show_table(console, table)
    typer.echo(f"\nwritten     {result.export} ({result.of})\npage        {page}")
    return 0
