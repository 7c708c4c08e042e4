"""`burnish plan`: what a recipe will take in memory, time and money, and what makes it fit; or a budget, divided."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.options import Json, Overrides

NAME = "plan"


def command(
    recipe: Annotated[
        str, typer.Argument(help="A recipe file, an embedded recipe such as `quickstart`, or a shape: `llama-70b`.")
    ],
    overrides: Overrides = None,
    shape: Annotated[
        str | None, typer.Option(help="Plan with this model's shape in the place of the recipe's.", show_default=False)
    ] = None,
    card: Annotated[
        str | None, typer.Option(help="Plan for a GPU by name, such as `RTX 4090`.", show_default=False)
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="none, ddp, fsdp2, zero1, zero2 or zero3; the recipe's by default.")
    ] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Devices that train together; by default the GPUs that are here.")
    ] = None,
    offload: Annotated[
        str | None, typer.Option(help="none, optimizer or parameters: what waits on the host; the recipe's by default.")
    ] = None,
    time: Annotated[
        bool, typer.Option("--time/--no-time", help="Calibrate on this machine, half a minute at most.")
    ] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0, help="Price of an hour of the machine.", show_default=False)
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Divide so many trained parameters among methods: `2M`, `500k`; or a share of the model: `1%`.",
            show_default=False,
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(help="Of a budget: the methods; by default `lora,bottleneck,prompt`.", show_default=False),
    ] = None,
    shares: Annotated[
        str | None, typer.Option(help="Of a budget: what each gets, as `60,30,10`.", show_default=False)
    ] = None,
    by: Annotated[
        str, typer.Option(help="Of a budget: `shares`; or `importance`, measured by gradients on a few rows.")
    ] = "shares",
    json: Json = False,
) -> int:
    """Say what a run of a recipe will take, before a weight is loaded: memory by phase, time, and what makes it fit.

    The memory is found by running the recipe's own code on shapes without numbers. With `--time` a few updates are
    made and thrown away. With `--budget`, ranks, widths and prompt lengths are chosen so that a number of trained
    parameters is met within 2 %.
    """
    from burnish.cli.plan_budget import DEFAULT, divide_budget
    from burnish.cli.plan_run import plan_run

    if budget is not None or methods is not None or shares is not None or by != "shares":
        return divide_budget(recipe, overrides, budget or DEFAULT, methods, shares, by, json)
    return plan_run(
        recipe,
        overrides,
        shape=shape,
        card=card,
        engine=(engine, processes, offload),
        calibrated=time,
        price=price_per_hour,
        json=json,
    )
