"""`burnish plan` of a run: its memory by phase, the cards that suffice, what makes it fit, and its time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from burnish.forecast.outlook import Outlook
    from burnish.forecast.timing import TimePlan
    from burnish.plan.engines import Engine

GIB = 1 << 30


def plan_run(
    recipe: str,
    overrides: list[str] | None,
    *,
    shape: str | None,
    card: str | None,
    engine: tuple[Any, int | None, Any],
    calibrated: bool,
    price: float | None,
    json: bool,
) -> int:
    """Plan a run and show it; 0 also where it does not fit, since that is an answer."""
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.core.errors import UserError
    from burnish.core.files import finite
    from burnish.forecast.outlook import is_shape, of_shape, outlook
    from burnish.forecast.timing import since_start

    started = since_start()
    alone = is_shape(recipe)
    config = of_shape(recipe, overrides or ()) if alone else load_recipe(recipe, overrides or ())
    if calibrated and (alone or shape or card):
        raise UserError(
            "time is measured by making updates here, with the recipe's own model",
            where="--time",
            fix="leave `--time` out: for cards the table estimates it",
        )
    found = outlook(config, name=recipe, alone=alone, shape=shape, card=card, engine=_engine(config, *engine))
    time = _timed(config, price, started) if calibrated else None
    if json:
        values = {**found.to_json(), **({"time": time.to_json()} if time else {})}
        print(encoder.dumps(finite(values), ensure_ascii=False))
        return 0
    show(found, Console(highlight=False))
    if time:
        show_time(time, Console(highlight=False))
    show_cards(found, price, Console(highlight=False))
    return 0


def _engine(config: Any, engine: Any, processes: int | None, offload: Any) -> Engine:
    """How a run is divided: as the recipe says, but for what the call says otherwise."""
    from burnish.core.engines import OFFLOADS
    from burnish.ops.machine import devices_here
    from burnish.plan.engines import Engine

    section = config.distributed
    name = engine or section.engine
    kept: Any = section.offload if section.offload in OFFLOADS.get(name, ()) else "none"
    half = section.half if name == section.engine else frozenset()
    return Engine(name, processes or (devices_here() if name != "none" else 1), offload or kept, half)


def _timed(config: Any, price: float | None, started: float) -> TimePlan:
    from burnish.forecast.timing import calibrate

    return calibrate(config, price=price, started=started)


def show(found: Outlook, console: Console) -> None:
    """Memory by phase, the verdict, and what makes it fit."""
    from rich.table import Table
    from rich.text import Text

    from burnish.plan.traffic import sent

    plan = found.memory
    engine = f"; {plan.engine.name}, {plan.engine.processes} devices" if plan.engine.name != "none" else ""
    console.print(f"[bold]{found.name}[/bold]", soft_wrap=True)
    console.print(f"[dim]{found.whole.trained:,} trained parameters; planned for {found.place}{engine}[/dim]\n")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("phase")
    table.add_column("GiB", justify="right")
    table.add_column("of that")
    for phase in plan.phases:
        parts = sorted(((size, part) for part, size in phase.parts.items() if size), reverse=True)
        words = ", ".join(f"{part} {_gib(size)}" for size, part in parts)
        table.add_row(phase.name, _gib(phase.total), words, style="bold" if phase is plan.highest else None)
    console.print(table)
    if plan.engine.processes > 1:
        told = _gib(sent(found.whole, plan.engine))
        console.print(f"[dim]each device sends {told} GiB in an update of one micro-batch a device[/dim]")
    if plan.host:
        console.print(f"[dim]in the host's memory besides: {_gib(plan.host)} GiB[/dim]")
    verdict = "fits" if found.fits else "does not fit"
    text = f"\n{verdict}: {_gib(plan.peak)} GiB of {_gib(found.limit)} ({found.place})"
    console.print(Text(text, style="green" if found.fits else "red"))
    for fix in found.fixes:
        result = "the same result" if fix.change.same else "another result"
        line = f"{_gib(fix.plan.peak)} GiB with [bold]{fix.change.words}[/bold]"
        console.print(f"  {line} [dim]{fix.change.slower:+.0%} time, {result}: {fix.change.why}[/dim]", soft_wrap=True)
    if not found.fits and not found.fixes:
        console.print(
            "  no single setting is enough: take a smaller model, shorter rows, or divide it: `--engine zero3`"
        )


def show_cards(found: Outlook, price: float | None, console: Console) -> None:
    """Which cards suffice, with a rough time."""
    from rich.table import Table

    from burnish.report.numbers import duration

    peak = found.cards[0].peak if found.cards else 0
    console.print(f"\n[dim]On a GPU: {_gib(peak)} GiB. Times are estimates from data sheets, not measured.[/dim]")
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    for name, side in (("card", "left"), ("GiB", "right"), ("fits", "left"), ("training", "right"), ("cost", "right")):
        if name != "cost" or price is not None:
            table.add_column(name, justify=side)  # type: ignore[arg-type]
    for one in found.cards:
        time = duration(one.seconds) if one.fits else ""
        cells = [one.card.name, f"{one.card.gib:g}", "yes" if one.fits else "no", time]
        cost = [f"{one.seconds / 3600 * price:.2f}" if one.fits else ""] if price is not None else []
        table.add_row(*cells, *cost, style=None if one.fits else "dim")
    console.print(table)


def show_time(time: TimePlan, console: Console) -> None:
    """Where the time of a run goes."""
    from burnish.report.numbers import duration

    console.print(f"\n[bold]{duration(time.total)}[/bold] for the whole run on this machine", end="")
    console.print(f" [dim]({time.updates:,} updates of {time.seconds_per_update:.2f} s; calibrated in "
                  f"{time.spent:.0f} s)[/dim]")  # fmt: skip
    for name, seconds in time.parts.items():
        console.print(f"  {name}: {duration(seconds)}")
    if time.energy is not None:
        console.print(f"  energy: {time.energy / 3.6e6:.3f} kWh, as the processor's own counter reads it")
    if time.cost is not None:
        console.print(f"  cost: {time.cost:.2f} at {time.price:g} an hour")


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 10 * GIB else f"{size / GIB:.1f}"
