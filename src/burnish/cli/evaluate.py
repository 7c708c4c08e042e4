"""`burnish evaluate`: score the model of a run, or a recipe's untouched model, on a split, and look at its errors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

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
    errors: Annotated[
        bool, typer.Option("--errors", help="Write errors.csv and errors.html: groups of errors, rows to mark.")
    ] = False,
    group_by: Annotated[
        list[str] | None, typer.Option(help="With --errors, a column of the data to group by; may be given again.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="With --errors, the folder; without it that of the run.")] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="First fit the temperature of the run's head and store it in final/.")
    ] = False,
    speed: Annotated[bool, typer.Option(help="Measure latency and throughput at batch sizes 1 and 32.")] = True,
    json: Json = False,
) -> int:
    """Score a model on held-out rows: loss, and the metrics of its classes or texts where the recipe asks for them."""
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.core.errors import UserError
    from burnish.core.files import finite
    from burnish.recipes import find_recipe
    from burnish.report.summary import calibration_line, metrics_table, speed_lines, tasks_table
    from burnish.train.errors import require_classes
    from burnish.train.folder import is_run, runs_beside
    from burnish.train.rescore import calibrate_target, describe_score, open_target, recipe_of_run

    run = Path(target) if is_run(Path(target)) else None
    if not run and not find_recipe(target).is_file():
        fix = runs_beside(Path(target)) or "name a folder such as runs/quickstart, or a recipe"
        raise UserError("there is no such run or recipe", where=target, fix=fix)
    if predictions and predictions.is_dir():
        raise UserError("the predictions need a file, and this is a folder", where=str(predictions), fix="name a file")
    if (group_by or out) and not errors:
        raise UserError("`--group-by` and `--out` belong to the error analysis", fix="add `--errors`")
    if out and out.exists() and not out.is_dir():
        raise UserError("the error analysis needs a folder, and this is a file", where=str(out), fix="name a folder")
    config = recipe_of_run(run, overrides or ()) if run else load_recipe(target, overrides or ())
    opened = open_target(config, split, run=run)
    if errors:
        require_classes(opened)
    if calibrate:
        calibrate_target(opened)
    evaluation = opened.score()
    scored = describe_score(opened, evaluation, predictions, speed=speed)
    if errors:
        scored["error_analysis"] = _errors(opened, evaluation, group_by or [], out or run or Path())
    if json:
        typer.echo(encoder.dumps(finite(scored), ensure_ascii=False))
        return 0
    console = Console()
    console.print(f"{target}: {scored['rows']:,} {scored['split']} rows")
    console.print(metrics_table({"model": scored["model"]}))
    if "tasks" in scored:
        console.print(tasks_table(scored["tasks"]))
    for line in (*calibration_line(scored), *speed_lines(scored)):
        console.print(line, highlight=False)
    for line in scored.get("error_analysis", {}).get("lines", ()):
        console.print(line, highlight=False, markup=False)
    return 0


def _errors(opened: Any, evaluation: Any, group_by: list[str], folder: Path) -> dict[str, Any]:
    """Analyse and write; what there is to say of it."""
    from burnish.report.errors import sentence, slices_sentence, write_errors
    from burnish.train.errors import analyse

    found = analyse(opened, evaluation, group_by)
    table, page = write_errors(found, opened.config.name, folder)
    told = found.to_json()
    lines = [sentence(told), slices_sentence(told), f"{told['label_errors']} labels may be wrong in the data itself"]
    keys = ("errors", "rows", "tested", "label_errors", "pairs", "significant")
    return {**{key: told[key] for key in keys}, "csv": str(table), "page": str(page), "lines": [*lines, str(page)]}
