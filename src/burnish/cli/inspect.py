"""`burnish inspect`: what the model will see, before anything is trained."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.options import Json, Overrides, Recipe

NAME = "inspect"


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(min=0, help="How many rows to show.")] = 4,
    split: Annotated[str, typer.Option(help="Rows of `train`, `validation` or `test`.")] = "train",
    shuffle: Annotated[int | None, typer.Option(help="Show a choice drawn by this seed, not the first rows.")] = None,
    json: Json = False,
) -> int:
    """Show decoded rows with the trained tokens marked, and what was masked, cut, dropped or found odd.

    Exits with 2 if a run of this recipe would be refused.
    """
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.cli.display import finding_lines
    from burnish.core.files import finite
    from burnish.core.findings import refuse_stops
    from burnish.data.inspect import inspect_rows, show
    from burnish.train.tasks import read_data

    prepared = read_data(load_recipe(recipe, overrides or ()))
    inspection = inspect_rows(prepared, prepared.renderer.tokenizer, rows, split=split, seed=shuffle)
    if json:
        findings = [finding.to_json() for finding in prepared.findings]
        typer.echo(encoder.dumps(finite({**inspection.to_json(), "findings": findings}), ensure_ascii=False))
    else:
        console = Console()
        show(inspection, console)
        for line in (line for finding in prepared.findings for line in finding_lines(finding)):
            console.print(line, highlight=False)
    refuse_stops(prepared.findings)
    return 0
