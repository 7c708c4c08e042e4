"""`burnish tradeoff`: try ways against forgetting on a recipe, draw task against retention, and recommend one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.interpolate import Tolerance
from burnish.cli.options import Json, Overrides, Recipe

NAME = "tradeoff"


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            help='A way to train, as `"name: section.key=value ..."`; may be given again. It takes the place of a '
            "default one of its name.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        bool, typer.Option("--only", help="Without the default arms: the plain recipe and those of --arm.")
    ] = False,
    tolerance: Tolerance = "1%",
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each arm.")] = 1,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Training time of all runs together, shared equally.", show_default=False),
    ] = None,
    interpolate: Annotated[
        bool, typer.Option("--interpolate", help="Also draw the line from the plain arm to the original.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="Folder; by default runs/tradeoff-NAME.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Train arms (replay, distillation, L2-SP, a gentler rate ...) in turn and weigh task against retention.

    Each run has a process of its own. Called again, the command continues: finished runs are not repeated. An arm that
    fails or is refused says why.
    """
    import json as encoder

    from rich.console import Console
    from rich.text import Text

    from burnish.api import load_recipe
    from burnish.cli.compared import listening
    from burnish.cli.fronts import read_share, show_afterwards, show_table, show_words
    from burnish.compare.afterwards import interpolate_run
    from burnish.compare.arms import PLAIN, read_arms
    from burnish.compare.tradeoff import PAGE, RESULTS, subject, weigh
    from burnish.compare.trials import Wanted
    from burnish.core.files import finite

    config, share = load_recipe(recipe, overrides or ()), read_share(tolerance)
    arms = read_arms(arm or (), config, defaults=not only)
    folder = output or Path("runs") / f"tradeoff-{config.name}"
    wanted = Wanted(config, arms, seeds, folder.resolve(), minutes=minutes, timed=False)
    with listening(Console(stderr=True), "preparing the arms") as listener:
        found = weigh(wanted, share, listener)
    if json:
        typer.echo(encoder.dumps(finite(found.to_json()), ensure_ascii=False))
    else:
        console = Console(highlight=False)
        show_words(console, found.advice.words if found.advice else ("No run finished.",))
        console.print(Text(f"{subject(found)}\n{found.caption}", style="dim"), soft_wrap=True)
        show_table(console, found.table)
        for label, why in found.failed.items():
            console.print(Text(f"{label}: ", style="red").append(why, style="default"), soft_wrap=True)
        typer.echo(f"\npage        {folder / PAGE}\nnumbers     {folder / RESULTS}")
    plain = folder / "runs" / f"{PLAIN}-seed0"
    if interpolate and (plain / "final").is_dir():
        return show_afterwards(interpolate_run(plain, tolerance=share), as_json=False)
    return 0
