"""`burnish average`: one model of a run's newest checkpoints, or of the moving average that they keep."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.options import Json, RunPath

NAME = "average"


def command(
    run: RunPath,
    last: Annotated[
        int | None, typer.Option(min=2, help="How many of the newest checkpoints; all of them without it.")
    ] = None,
    ema: Annotated[
        bool, typer.Option("--ema", help="The moving average (`checkpoint.ema`) of the best checkpoint instead.")
    ] = False,
    json: Json = False,
) -> int:
    """Average checkpoints (stochastic weight averaging), score the mean beside what the run handed over, and write it.

    The export in RUN/averaged is an adapter or a model like RUN/final. Keep more checkpoints with `checkpoint.keep`.
    """
    from rich.console import Console

    from burnish.cli.fronts import show_afterwards
    from burnish.compare.afterwards import average_run
    from burnish.core.errors import UserError

    if last and ema:
        raise UserError("`--last` and `--ema` contradict each other", fix="give one of them")
    console = Console(stderr=True, highlight=False)
    result = average_run(run, last=last, ema=ema, heard=lambda text: console.print(text, style="dim"))
    return show_afterwards(result, as_json=json)
