"""A sequence of tasks for a terminal: the matrix of scores, and what it says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from burnish.report.numbers import decimal, signed


def sequence_table(found: Mapping[str, Any]) -> Table:
    """A line for the untouched model and for each run, a column for each task."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    names = [Path(run).name for run in found["runs"]]
    table.add_column("after")
    for name, metric in zip(names, found["metrics"], strict=True):
        table.add_column(Text(f"{name}\n{metric}"), justify="right")
    table.add_row(Text("untouched", style="dim"), *(decimal(value) for value in found["base"]))
    for number, (name, row) in enumerate(zip(names, found["scores"], strict=True)):
        cells = [Text(decimal(v), style="bold" if i == number else "") for i, v in enumerate(row)]
        table.add_row(Text(name), *cells)
    return table


def sequence_sentence(found: Mapping[str, Any]) -> str:
    """What the matrix comes to."""
    forgotten = found["forgetting"]
    verdict = f"forgot {decimal(forgotten)} on average" if forgotten > 0 else "forgot nothing on average"
    return (
        f"After {len(found['runs'])} tasks the model scores {decimal(found['average'])} on average and {verdict} "
        f"(backward transfer {signed(found['backward_transfer'])}, forward transfer "
        f"{signed(found['forward_transfer'])})."
    )
