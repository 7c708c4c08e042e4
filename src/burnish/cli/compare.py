"""`burnish compare`: hold two runs against each other on the same held-out rows, with paired tests."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Json

NAME = "compare"


def command(
    first: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    second: Annotated[Path, typer.Argument(help="The folder of another one, scored on the same rows.")],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the bootstrap.")] = 0,
    json: Json = False,
) -> int:
    """Compare two runs: McNemar's test for accuracy, the paired bootstrap for the rest; refused on different rows."""
    import json as encoder

    from rich.console import Console

    from burnish.core.files import finite
    from burnish.report.comparison import comparison_table, comparison_verdict
    from burnish.train.compare_runs import compare_runs

    found = compare_runs(first, second, seed)
    if json:
        typer.echo(encoder.dumps(finite(found), ensure_ascii=False))
        return 0
    console = Console()
    console.print(comparison_verdict(found), highlight=False, markup=False)
    console.print(comparison_table(found))
    return 0
