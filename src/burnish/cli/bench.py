"""`burnish bench`: measure Burnish and its peers on the same job, in turn, in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Json

NAME = "bench"


def command(
    data: Annotated[
        Path | None,
        typer.Argument(
            help="A JSON list of rows with `instruction`, `input` and `output` (of a classification: `text` and "
            "`sentiment`). Without it, tweets of the demo.",
            show_default=False,
        ),
    ] = None,
    job: Annotated[
        str,
        typer.Option(
            help="`lora`, `qlora`, `lora-adapterhub`, `full`, `classify-lora`, `classify-full`; `method-NAME` for one "
            "method beside the same one of PEFT; or `methods` for all of these in turn."
        ),
    ] = "lora",
    peers: Annotated[
        list[str] | None,
        typer.Option(help="A Python that has peers installed; may be given several times.", show_default=False),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run this contender, such as `burnish`; may be given several times.", show_default=False),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often each contender runs.")] = 3,
    slow_rounds: Annotated[int, typer.Option(min=1, help="How often those run that take minutes.")] = 1,
    rows: Annotated[int | None, typer.Option(min=1, help="Rows to train on; the job's own number without it.")] = None,
    held_out: Annotated[int | None, typer.Option(min=1, help="Rows to score at the end.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which one run is ended.")] = 3600.0,
    output: Annotated[Path, typer.Option(help="Folder for JOB.json and JOB.svg.")] = Path("runs/bench"),
    json: Json = False,
) -> int:
    """Measure tokens/s, memory, start-up and held-out loss of Burnish and its peers, as ratios to Burnish.

    Contenders take turns, each in a process of its own, on the same rows and with the same settings. One that trains
    other parameters, tokens or updates is not compared; one that cannot run says why.
    """
    import json as encoder

    from rich.console import Console

    from burnish.benchmarks.jobs import GROUPS
    from burnish.benchmarks.runner import Plan, choose, measure
    from burnish.cli.turns import WIDE, print_table, turns_display
    from burnish.core.files import finite

    for chosen, contenders in [choose(name, only or ()) for name in GROUPS.get(job, (job,))]:
        plan = Plan(
            chosen,
            contenders,
            rounds=rounds,
            slow_rounds=min(slow_rounds, rounds),
            peers=tuple(peers or ()),
            data=data,
            rows=rows or chosen.rows,
            held_out=held_out or chosen.held_out,
            timeout=timeout,
        )
        with turns_display(Console(stderr=True)) as listener:
            measured = measure(plan, output, listener)
        if json:
            typer.echo(encoder.dumps(finite(measured.to_json()), ensure_ascii=False))
            continue
        console = Console()
        print_table(measured, console if console.is_terminal else Console(width=WIDE))
        typer.echo(f"\nresults     {output / chosen.name}.json\ndrawing     {output / chosen.name}.svg")
    return 0
