"""`burnish compare-methods`: train a list of methods on one recipe and say which differ, and what each costs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Json, Overrides, Recipe

NAME = "compare-methods"


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    methods: Annotated[
        str | None,
        typer.Option(
            help="Such as `lora,lora+rslora=true,full`: `+` adds a setting, `&` joins methods in one model. Without "
            "it, every native method.",
            show_default=False,
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each method.")] = 3,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Trained parameters of each: `300k`, `1%`. Without it each has its own size.", show_default=False
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Training time of all runs together; each gets the same, and as many updates as fit into it.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder; by default runs/compare-NAME.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Train methods under one budget with repeated seeds and compare quality, memory, speed, latency and size.

    Each run has a process of its own. Called again, the command continues: finished runs are not repeated. A method
    that fails or is refused says why in the table.
    """
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.cli.compared import listening, show
    from burnish.compare.run import CHART, PAGE, RESULTS, compare_methods
    from burnish.compare.trials import Wanted
    from burnish.compare.variants import read_variants
    from burnish.core.files import finite
    from burnish.models.shapes import shapes_of
    from burnish.plan.budget import read_budget

    config = load_recipe(recipe, overrides or ())
    variants, parameters = read_variants(methods), None
    if budget:
        model = shapes_of(config.model, headless=config.classifies)
        parameters = read_budget(budget, sum(p.numel() for p in model.parameters()))
    folder = output or Path("runs") / f"compare-{config.name}"
    wanted = Wanted(config, variants, seeds, folder.resolve(), parameters, minutes)
    with listening(Console(stderr=True)) as listener:
        results = compare_methods(wanted, listener)
    if json:
        typer.echo(encoder.dumps(finite(results.to_json()), ensure_ascii=False))
        return 0
    show(results, Console(highlight=False))
    typer.echo(f"\npage        {folder / PAGE}\ndrawing     {folder / CHART}\nnumbers     {folder / RESULTS}")
    return 0
