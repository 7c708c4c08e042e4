"""`burnish data-need`: train on growing parts of the rows and say what more of them would bring."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Json, Overrides, Recipe

NAME = "data-need"


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Numbers of training rows, five or more, as `250,500,1000,2000,4000`. Without it the recipe's rows "
            "and four halvings of them.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Qualities whose rows are asked, as `0.80,0.85`.", show_default=False)
    ] = None,
    rows: Annotated[
        str | None, typer.Option(help="Numbers of rows whose quality is asked, as `20000`.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each size.")] = 3,
    least_updates: Annotated[
        int, typer.Option(min=1, help="Updates that small sizes get at least, in more passes than the recipe's.")
    ] = 150,
    output: Annotated[
        Path | None, typer.Option(help="Folder; by default runs/data-need-NAME.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Fit a learning curve to trainings on nested parts of the rows, and answer with intervals, or say "cannot tell".

    Each run has a process of its own. Called again, the command continues: finished runs are not repeated.
    """
    import json as encoder

    from rich.console import Console
    from rich.text import Text

    from burnish.api import load_recipe
    from burnish.cli.compared import listening
    from burnish.cli.fronts import show_table, show_words
    from burnish.compare.data_need import PAGE, RESULTS, NeedWanted, data_need
    from burnish.compare.need_page import caption, subject, table_of, verdict
    from burnish.compare.space import read_numbers
    from burnish.core.files import finite

    config = load_recipe(recipe, overrides or ())
    folder = output or Path("runs") / f"data-need-{config.name}"
    wanted = NeedWanted(
        config,
        folder.resolve(),
        tuple(int(n) for n in read_numbers(sizes, "--sizes", whole=True)),
        seeds,
        least_updates,
        read_numbers(target, "--target"),
        tuple(int(n) for n in read_numbers(rows, "--rows", whole=True)),
    )
    with listening(Console(stderr=True), "preparing the sizes") as listener:
        found = data_need(wanted, listener)
    if json:
        typer.echo(encoder.dumps(finite(found.to_json()), ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    show_words(console, verdict(found))
    console.print(Text(f"\n{subject(found)}\n{caption(found)}", style="dim"), soft_wrap=True)
    show_table(console, table_of(found))
    for label, why in found.failed.items():
        console.print(Text(f"{label}: ", style="red").append(why, style="default"), soft_wrap=True)
    typer.echo(f"\npage        {folder / PAGE}\nnumbers     {folder / RESULTS}")
    return 0
