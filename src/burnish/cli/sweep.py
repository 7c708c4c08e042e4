"""`burnish sweep`: race learning rates, batch sizes and epochs, stop the losers early, and say what matters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import Json, Overrides, Recipe

if TYPE_CHECKING:
    from burnish.compare.standings import Sweep

NAME = "sweep"


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    rates: Annotated[
        str | None,
        typer.Option(
            help="Learning rates, as `1e-4,3e-4,1e-3`. Without it four around the suggestion of a range test, and more "
            "beyond them while the best is at their end.",
            show_default=False,
        ),
    ] = None,
    batch_sizes: Annotated[
        str | None, typer.Option(help="Rows of an update, as `8,16,32`; by default the recipe's.", show_default=False)
    ] = None,
    epochs: Annotated[
        str | None, typer.Option(help="Passes, as `1,2,4`; by default the recipe's.", show_default=False)
    ] = None,
    finalists: Annotated[int, typer.Option(min=1, help="Trials that come to their end.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each finalist.")] = 1,
    keep_one_in: Annotated[float, typer.Option(min=1.5, help="One trial in so many goes on behind each stop.")] = 3.0,
    first: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            max=0.9,
            help="Share of a training at which trials are first compared; by default an eighth, and 500 rows at least.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder; by default runs/sweep-NAME.", show_default=False)] = None,
    json: Json = False,
) -> int:
    """Try learning rates, batch sizes and epochs, each with each, and stop the losers on the validation rows.

    Trials pause at stops and the better ones continue where they were. Called again, the command continues: what was
    trained is not trained again. The test rows are not looked at.
    """
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.cli.compared import listening
    from burnish.compare.space import read_numbers
    from burnish.compare.sweep import PAGE, RESULTS, WINNER, SweepWanted, sweep
    from burnish.core.files import finite

    config = load_recipe(recipe, overrides or ())
    folder = output or Path("runs") / f"sweep-{config.name}"
    wanted = SweepWanted(
        config,
        folder.resolve(),
        read_numbers(rates, "--rates"),
        read_numbers(batch_sizes, "--batch-sizes", whole=True),
        read_numbers(epochs, "--epochs"),
        finalists,
        seeds,
        keep_one_in,
        first,
    )
    with listening(Console(stderr=True), "preparing the trials") as listener:
        found = sweep(wanted, listener)
    if json:
        typer.echo(encoder.dumps(finite(found.to_json()), ensure_ascii=False))
        return 0
    show(found)
    typer.echo(f"\ntrain it    burnish run {recipe} {' '.join([*(overrides or ()), *found.overrides])}")
    typer.echo(f"settings    {folder / WINNER}\npage        {folder / PAGE}\nnumbers     {folder / RESULTS}")
    return 0


def show(found: Sweep) -> None:
    """What may be said, and the trials."""
    from rich.console import Console
    from rich.text import Text

    from burnish.cli.fronts import show_table, show_words
    from burnish.compare.sweep_page import caption, subject, table_of, verdict

    console = Console(highlight=False)
    show_words(console, verdict(found))
    console.print(Text(f"\n{subject(found)}\n{caption(found)}", style="dim"), soft_wrap=True)
    show_table(console, table_of(found))
    for line in found.lines:
        if line.why_not:
            console.print(Text(f"{line.label}: ", style="red").append(line.why_not, style="default"), soft_wrap=True)
