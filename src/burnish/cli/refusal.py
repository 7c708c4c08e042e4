"""How an error looks: red, where it is and how to mend it, wrapped to the terminal; one JSON line for a machine."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from burnish.core.errors import BurnishError

WIDEST = 110
"""Longer lines are hard to read, however wide the terminal is."""


def show_error(error: BurnishError, as_json: bool = False) -> None:
    """Print an error on standard error and, for a machine, as the last JSON line on standard output."""
    if as_json:
        event = {"event": "error", "what": error.what, "where": error.where, "fix": error.fix}
        print(json.dumps({**event, "exit_code": error.exit_code}, ensure_ascii=False), flush=True)
    console = Console(stderr=True, highlight=False)
    width = min(console.width, WIDEST) if console.is_terminal else None
    for line in error_lines(error, width):
        console.print(line, soft_wrap=True)


def error_lines(error: BurnishError, width: int | None) -> Iterator[Text]:
    """The lines of an error: the fault, its place, its fix, each with its continuation indented.

    Args:
        error: The error.
        width: Columns to wrap at; None leaves lines whole, for logs and pipes.
    """
    parts = (("error: ", error.what, "bold red"), ("  where: ", error.where, "dim"), ("  fix:   ", error.fix, "green"))
    for label, text, style in parts:
        for number, line in enumerate(text.splitlines() if text else ()):
            start = label if number == 0 else ""
            yield from _wrapped(start, line, style, width)


def _wrapped(label: str, line: str, style: str, width: int | None) -> Iterator[Text]:
    """One line of a part. An entry of a list keeps its text behind its dash; paths and names are never cut."""
    indent = len(label) or len(line) - len(line.lstrip(" -"))
    pieces = [line]
    if width is not None:
        pieces = textwrap.wrap(
            line,
            max(20, width - len(label)),
            subsequent_indent="" if label else " " * indent,
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    for number, piece in enumerate(pieces):
        yield Text.assemble((label if number == 0 else " " * len(label), style), piece)
