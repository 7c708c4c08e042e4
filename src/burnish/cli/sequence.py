"""`burnish sequence`: score runs that were trained one after the other on each other's rows: what was forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Json

NAME = "sequence"


def command(
    runs: Annotated[
        list[Path], typer.Argument(help="Finished runs in the order in which they were trained, two or more.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write the matrix to this JSON file.")] = None,
    json: Json = False,
) -> int:
    """Score every run's model on every run's held-out rows: backward and forward transfer, average forgetting."""
    import json as encoder

    from rich.console import Console

    from burnish.core.errors import UserError
    from burnish.core.files import finite, write_json
    from burnish.report.sequence import sequence_sentence, sequence_table
    from burnish.train.sequence import score_sequence

    if out and out.is_dir():
        raise UserError("the matrix needs a file, and this is a folder", where=str(out), fix="name a file")
    progress = Console(stderr=True)
    found = score_sequence(runs, lambda text: progress.print(text, style="dim", highlight=False, soft_wrap=True))
    if out:
        write_json(out, found)
    if json:
        typer.echo(encoder.dumps(finite(found), ensure_ascii=False))
        return 0
    console = Console()
    console.print(sequence_sentence(found), highlight=False)
    console.print(sequence_table(found))
    if out:
        console.print(f"written to {out}", highlight=False, soft_wrap=True)
    return 0
