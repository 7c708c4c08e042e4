"""`burnish evaluate`: score the model of a run, or a recipe's untouched model, on a split."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Json, Overrides

NAME = "evaluate"


def command(
    target: Annotated[str, typer.Argument(help="A run folder, or a recipe to score its model before any training.")],
    overrides: Overrides = None,
    split: Annotated[str, typer.Option(help="Rows of `test`, `validation` or `train`.")] = "test",
    predictions: Annotated[
        Path | None, typer.Option(help="Write every row with its answer to this JSONL file.")
    ] = None,
    json: Json = False,
) -> int:
    """Score a model on held-out rows: loss, and accuracy, macro-F1 or text metrics where the recipe asks for them."""
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.core.errors import UserError
    from burnish.core.files import finite
    from burnish.recipes import find_recipe
    from burnish.report.summary import metrics_table
    from burnish.train.folder import is_run, runs_beside
    from burnish.train.rescore import recipe_of_run, score_target

    run = Path(target) if is_run(Path(target)) else None
    if not run and not find_recipe(target).is_file():
        fix = runs_beside(Path(target)) or "name a folder such as runs/quickstart, or a recipe"
        raise UserError("there is no such run or recipe", where=target, fix=fix)
    if predictions and predictions.is_dir():
        raise UserError("the predictions need a file, and this is a folder", where=str(predictions), fix="name a file")
    config = recipe_of_run(run, overrides or ()) if run else load_recipe(target, overrides or ())
    scored = score_target(config, split, predictions, run=run)
    if json:
        typer.echo(encoder.dumps(finite(scored), ensure_ascii=False))
        return 0
    console = Console()
    console.print(f"{target}: {scored['rows']:,} {scored['split']} rows")
    console.print(metrics_table({"model": scored["model"]}))
    return 0
