"""`burnish augment-report`: what each kind of augmentation adds, and what it does to the validation score."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.options import Force, Json, Overrides, Recipe

NAME = "augment-report"


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each way, with the seeds 0, 1, …")] = 3,
    force: Force = False,
    json: Json = False,
) -> int:
    """Train a recipe without, with each and with all of its `data.augment`, and compare them on the validation rows.

    Every run has as many updates as the one without; runs of an earlier report that are complete are used again.
    """
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.cli.display import display
    from burnish.core.files import finite
    from burnish.trials.augmentation import augmentation_report, home, table

    config = load_recipe(recipe, overrides or ())
    with display(json) as shown:
        report = augmentation_report(config, range(seeds), force=force, callbacks=[shown])
    if json:
        typer.echo(encoder.dumps(finite({"event": "result", **report.to_json()}), ensure_ascii=False))
        return 0
    console = Console()
    console.print(table(report))
    for trial in report.trials:
        if trial.verdict == "harms":
            console.print(f"`{trial.name}` harms: leave it out.", highlight=False)
    console.print(f"written to {home(config)}/augmentation.json", highlight=False)
    return 0
