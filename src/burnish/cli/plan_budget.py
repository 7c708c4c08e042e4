"""`burnish plan --budget`: divide a number of parameters among methods, before a weight is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from burnish.adapters.registry import MethodConfig
    from burnish.plan.budget import Plan
    from burnish.train.config import RunConfig

SHARES, IMPORTANCE = "shares", "importance"
DEFAULT = "1%"


def divide_budget(
    recipe: str,
    overrides: list[str] | None,
    budget: str,
    methods: str | None,
    shares: str | None,
    by: str,
    json: bool,
) -> int:
    """Choose rank, width and prompt length so that a budget of trained parameters is met within 2 %."""
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.core.files import finite
    from burnish.models.shapes import shapes_of
    from burnish.plan.budget import divide, read_budget

    refuse_contradictions(by, shares)
    config = load_recipe(recipe, overrides or ())
    model = shapes_of(config.model, headless=config.classifies)
    wanted = read_budget(budget, sum(p.numel() for p in model.parameters()))
    configs = chosen_configs(config, methods)
    plan = divide(model, configs, shares_of(config, configs, shares, by), wanted)
    if json:
        print(encoder.dumps(finite(plan.to_json()), ensure_ascii=False))
        return 0
    console = Console(highlight=False)
    show(plan, config, console)
    return 0


def refuse_contradictions(by: str, shares: str | None) -> None:
    """Refuse an unknown way of dividing, and shares beside measured ones."""
    from burnish.core.errors import UserError
    from burnish.core.names import suggestion

    if by not in (SHARES, IMPORTANCE):
        raise UserError(
            f"there is no way of dividing called `{by}`", where="--by", fix=suggestion(by, (SHARES, IMPORTANCE))
        )
    if by == IMPORTANCE and shares:
        raise UserError(
            "shares are given, and asked to be measured", where="--by", fix="leave `--shares` or `--by` out"
        )


def chosen_configs(config: RunConfig, methods: str | None) -> list[MethodConfig]:
    """The configuration of every method: what the recipe says of it, else its defaults."""
    from burnish.adapters.registry import METHODS
    from burnish.core.errors import UserError
    from burnish.plan.budget import known_methods

    given: Any = config.adapter
    own = {one.method: one for one in (given if isinstance(given, (list, tuple)) else (given,))}
    names = [name.strip() for name in methods.split(",")] if methods else known_methods()
    if len(set(names)) < len(names):
        raise UserError("a method is named twice", where="--methods", fix="name each one once")
    return [own.get(name) or METHODS[name].config(method=name) for name in names]


def shares_of(config: RunConfig, configs: list[MethodConfig], shares: str | None, by: str) -> dict[str, float]:
    """What each method is to get."""
    from burnish.plan.budget import default_shares, read_shares

    names = [one.method for one in configs]
    if by == IMPORTANCE:
        from burnish.plan.importance import gradient_masses, importance_shares
        from burnish.train.sensitivity import sample_losses

        loaded, losses = sample_losses(config)
        return importance_shares(loaded.model, configs, gradient_masses(loaded.model, losses))
    return read_shares(shares, names) if shares else default_shares(names)


def show(plan: Plan, config: RunConfig, console: Console) -> None:
    """The table, what is worth knowing, and the YAML to paste."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("method")
    table.add_column("sites", justify="right")
    table.add_column("setting")
    table.add_column("parameters", justify="right")
    table.add_column("share", justify="right")
    table.add_column("wanted", justify="right", style="dim")
    for line in plan.lines:
        share = f"{line.parameters / plan.total:.1%}"
        table.add_row(
            line.config.method, f"{line.sites:,}", line.size, f"{line.parameters:,}", share, f"{line.wanted:.1%}"
        )
    if len(plan.lines) > 1:
        table.add_row("together", "", "", f"{plan.total:,}", "100.0%", "", style="bold")
    console.print(f"[bold]{config.model.path}[/bold]", soft_wrap=True)
    console.print(
        f"[dim]{plan.model:,} parameters; a budget of {plan.budget:,} ({plan.budget / plan.model:.2%})[/dim]\n"
    )
    console.print(table)
    console.print()
    style = "green" if plan.hit else "yellow"
    console.print(Text(plan.judged, style=style))
    for note in (*plan.notes, *head_note(config)):
        console.print(Text(f"note: {note}", style="dim"), soft_wrap=True)
    console.print("\n[dim]# into the recipe[/dim]")
    console.print(plan.yaml(), markup=False, end="", soft_wrap=True)


def head_note(config: RunConfig) -> list[str]:
    """What a classification trains beside its adapters."""
    return ["the new head of the classification is trained too and is not counted here"] if config.classifies else []
