"""`burnish search`: a search over architectures of adapters with Optuna, by several processes or machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import Json, Overrides, Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from burnish.compare.search import Searched

NAME = "search"
SHOWN = 12


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    trials: Annotated[int, typer.Option(min=1, help="Trials in the study, whichever process makes them.")] = 30,
    store: Annotated[
        str | None,
        typer.Option(
            help="Where the study is, for processes and machines that share it: `sqlite:///search.db`, "
            "`postgresql://host/name`, `journal:///folder/search.log`. By default a database in the output folder.",
            show_default=False,
        ),
    ] = None,
    study: Annotated[
        str | None, typer.Option(help="Name of the study; by default the recipe's.", show_default=False)
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="lora, bottleneck, hybrid, prompt, ia3; by default the first three.", show_default=False),
    ] = None,
    pruner: Annotated[str, typer.Option(help="What ends losers early: median, halving or none.")] = "median",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Seed of the sampler, for one process alone.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Folder; by default runs/search-NAME.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Search method, rank, places, bottleneck and learning rate; losers are stopped early on the validation rows.

    Called again, or in further processes with the same store, the command continues the study until it has so many
    trials. The best settings are written as a file for `burnish run RECIPE @best.yaml`. Needs burnish[search].
    """
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.cli.compared import listening
    from burnish.compare.architectures import space_of
    from burnish.compare.search import RESULTS, SETTINGS, SearchWanted, default_store, search
    from burnish.compare.study import PRUNERS, optuna_module
    from burnish.core.errors import UserError
    from burnish.core.files import finite
    from burnish.core.names import suggestion
    from burnish.models.shapes import shapes_of

    optuna_module()
    if pruner not in PRUNERS:
        raise UserError(f"there is no pruner `{pruner}`", where="--pruner", fix=suggestion(pruner, list(PRUNERS)))
    config = load_recipe(recipe, overrides or ())
    space = space_of(shapes_of(config.model, headless=config.classifies), methods)
    folder = output or Path("runs") / f"search-{config.name}"
    whole = folder.resolve()
    wanted = SearchWanted(
        config, space, whole, trials, store or default_store(whole), study or config.name, pruner, seed
    )
    with listening(Console(stderr=True), "opening the study") as listener:
        found = search(wanted, listener)
    if json:
        typer.echo(encoder.dumps(finite(found.to_json()), ensure_ascii=False))
        return 0
    show(found, Console(highlight=False))
    if found.best is not None:
        typer.echo(f"\ntrain it    burnish run {recipe} {' '.join([*(overrides or ()), f'@{folder / SETTINGS}'])}")
        typer.echo(f"settings    {folder / SETTINGS}")
    typer.echo(f"numbers     {folder / RESULTS}\nstore       {wanted.store}")
    return 0


def show(found: Searched, console: Console) -> None:
    """The best trials, and what matters."""
    from rich.table import Table
    from rich.text import Text

    from burnish.compare.basis import NAMES as METRIC_NAMES

    counts = {
        state: sum(t["state"] == state for t in found.trials) for state in ("complete", "pruned", "fail", "running")
    }
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    name = METRIC_NAMES[found.metric]
    if found.best is None:
        console.print(Text(f"no trial came to its end ({told or 'none was made'})", style="bold red"))
    else:
        best = next(t for t in found.trials if t["number"] == found.best)
        line = f"best: trial {found.best}, {name} {best['value']:.4f} on the validation rows ({told})"
        console.print(Text(line, style="bold green"), soft_wrap=True)
        console.print(Text("One seed each, the best of many: expect less of it on other rows.\n", style="dim"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in ("trial", name, "", "settings"):
        table.add_column(column, justify="right" if column in ("trial", name) else "left")
    for one in found.ranked()[:SHOWN]:
        settings = ", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in one["settings"].items())
        value = f"{one['value']:.4f}" if one["value"] is not None else "–"
        state = "" if one["state"] == "complete" else one["state"]
        table.add_row(str(one["number"]), value, Text(state, style="dim"), Text(one["why"] or settings))
    console.print(table)
    for group, shares in found.importance.items():
        title = "what matters" if group == "all" else f"among trials of {group}"
        parts = ", ".join(f"{setting} {share:.0%}" for setting, share in shares.items())
        console.print(Text(f"{title}: ", style="dim").append(parts, style="default"), soft_wrap=True)
