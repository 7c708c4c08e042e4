"""`burnish ranks`: which layers and parts deserve ranks, by one pass of gradients; or which rank a run really used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import Json, Overrides

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from rich.console import Console
    from rich.table import Table

    from burnish.plan.importance import Salience
    from burnish.plan.ranks import RankPlan
    from burnish.train.used_ranks import Used

NAME = "ranks"
FILE, NUMBERS = "ranks.yaml", "ranks.json"
DASH = "–"


def command(
    target: Annotated[str, typer.Argument(help="A recipe, or the folder of a finished run.")],
    overrides: Overrides = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Parameters: `300k`, `1%`. Without it those of the recipe's own rank.", show_default=False),
    ] = None,
    by: Annotated[str, typer.Option(help="What ranks are dealt by: svd, sensitivity or fisher.")] = "sensitivity",
    rows: Annotated[int, typer.Option(min=1, max=4096, help="Training rows whose gradients are taken.")] = 64,
    output: Annotated[Path | None, typer.Option(help="Folder; by default runs/ranks-NAME.", show_default=False)] = None,
    json: Json = False,
) -> int:
    """Measure the gradients of the untouched model on training rows, and deal ranks of LoRA to its matrices.

    The dealt ranks train as many parameters as one rank for all, within 2 %, and are written as a file of settings for
    `burnish run RECIPE @ranks.yaml`. Of a finished run, the effective rank of every matrix's change is shown.
    """
    from burnish.core.errors import UserError
    from burnish.train.folder import is_run

    if is_run(Path(target)):
        if overrides or budget:
            raise UserError(
                "a finished run is measured as it is", where=target, fix="leave settings and `--budget` out"
            )
        return show_used(Path(target), json)
    return suggest(target, overrides, budget, by, rows, output, json)


def suggest(
    recipe: str,
    overrides: list[str] | None,
    budget: str | None,
    by: str,
    rows: int,
    output: Path | None,
    json: bool,
) -> int:
    """Ranks for a recipe."""
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.core.files import finite, write_atomic, write_json
    from burnish.plan.budget import read_budget
    from burnish.plan.importance import saliences
    from burnish.plan.ranks import lora_of, overlay, plan_ranks, sites_of, way
    from burnish.train.sensitivity import sample_losses

    way(by)
    config = load_recipe(recipe, overrides or ())
    number, lora = lora_of(config.adapters)
    # gradients of a base in few bits are those of its weights, which are not trained: they are taken of the original
    whole = config.model_copy(update={"model": config.model.model_copy(update={"quantization": None})})
    loaded, losses = sample_losses(whole, rows, one_by_one=True)
    wanted = read_budget(budget, sum(p.numel() for p in loaded.model.parameters())) if budget else None
    found = saliences(loaded.model, sites_of(lora, loaded.model), losses)
    plan = plan_ranks(lora, loaded.model, found, by, wanted)
    folder = output or Path("runs") / f"ranks-{config.name}"
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, overlay(config.adapters, number, plan))
    told = {"recipe": config.name, "rows": rows, **plan.to_json(), "matrices": [one.to_json() for one in found]}
    write_json(folder / NUMBERS, told)
    if json:
        typer.echo(encoder.dumps(finite(told), ensure_ascii=False))
        return 0
    show(plan, found, wide(Console(highlight=False)))
    written = [*(overrides or ()), f"@{folder / FILE}"]
    typer.echo(f"\ntrain it    burnish run {recipe} {' '.join(written)}")
    typer.echo(f"settings    {folder / FILE}\nnumbers     {folder / NUMBERS}")
    return 0


def show(plan: RankPlan, found: Sequence[Salience], console: Console) -> None:
    """Where the loss is sensitive, and the ranks."""
    from rich.text import Text

    from burnish.plan.importance import shares_of

    for key in ("layer", "role"):
        console.print(_shares(key, shares_of(found, key), found))
        console.print()
    console.print(Text(f"ranks, dealt by {plan.by}; uniform would be {plan.config.rank}", style="bold"))
    ranks = plan.ranks
    console.print(grid([(one.layer, one.role, float(ranks[one.name])) for one in found], lambda value: f"{value:g}"))
    style = "green" if plan.hit else "yellow"
    console.print(Text(f"\n{plan.judged}", style=style))


def _shares(key: str, shares: Mapping[str, tuple[float, float, float]], found: Sequence[Salience]) -> Table:
    import statistics

    table = _table()
    table.add_column(key)
    for name in ("sensitivity", "Fisher", "of the weights", "gradient's rank"):
        table.add_column(name, justify="right")
    for group, (sensitivity, fisher, weights) in shares.items():
        own = [one.rank for one in found if str(getattr(one, key)) == group]
        rank = f"{statistics.fmean(own):.1f}" if own else DASH
        table.add_row(group, f"{sensitivity:.1%}", f"{fisher:.1%}", f"{weights:.1%}", rank)
    return table


def show_used(path: Path, json: bool) -> int:
    """The effective ranks of a finished run."""
    import json as encoder
    import statistics

    from rich.console import Console
    from rich.text import Text

    from burnish.core.files import finite
    from burnish.train.used_ranks import used_ranks

    found = used_ranks(path)
    if json:
        told = {"run": str(path), "matrices": [one.to_json() for one in found]}
        typer.echo(encoder.dumps(finite(told), ensure_ascii=False))
        return 0
    console = wide(Console(highlight=False))
    console.print(Text("effective rank of each matrix's change", style="bold"))
    console.print(grid([(one.layer, one.role, one.used) for one in found], lambda value: f"{value:.1f}"))
    console.print(Text("\n‖change‖ / ‖weight‖", style="bold"))
    console.print(grid([(one.layer, one.role, one.relative) for one in found], lambda value: f"{value:.2%}"))
    console.print(Text(f"\n{sentence(found, statistics.median)}", style="bold green"), soft_wrap=True)
    return 0


def sentence(found: Sequence[Used], median: Callable[[list[float]], float]) -> str:
    """Used against given, in words."""
    pairs = [(one.used, one.given) for one in found if one.used is not None]
    if not pairs:
        return "nothing changed"
    given = [float(rank) for _, rank in pairs if rank]
    middle = f"{len(pairs)} matrices changed, with an effective rank of {median([used for used, _ in pairs]):.1f}"
    least, most = min(used for used, _ in pairs), max(used for used, _ in pairs)
    between = f" ({least:.1f} to {most:.1f})"
    return middle + between + (f" of the {median(given):g} that they were given" if given else "")


def grid(cells: Sequence[tuple[int | None, str, float | None]], shown: Callable[[float], str]) -> Table:
    """Layers down, roles across; several matrices of one role in a layer stand side by side."""
    roles = list(dict.fromkeys(role for _, role, _ in cells))
    table = _table()
    table.add_column("layer")
    for role in roles:
        table.add_column(role, justify="right")
    for layer in dict.fromkeys(layer for layer, _, _ in cells):
        line = []
        for role in roles:
            own = [value for number, name, value in cells if number == layer and name == role]
            line.append(" ".join(DASH if value is None else shown(value) for value in own))
        table.add_row("outside" if layer is None else str(layer), *line)
    return table


def wide(console: Console) -> Console:
    """A console on which no cell is broken, where nobody looks at a terminal."""
    from rich.console import Console as Made

    return console if console.is_terminal else Made(file=console.file, width=150, highlight=False)


def _table() -> Table:
    from rich.table import Table

    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
