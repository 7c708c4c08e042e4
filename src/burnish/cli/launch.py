"""`burnish launch`: run a recipe on several processes, GPUs or machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Force, Json, Overrides

NAME = "launch"

Target = Annotated[str, typer.Argument(help="A recipe, or the folder of a run, which is then resumed.")]
Count = Annotated[int, typer.Option("--processes", "-n", min=1, help="Processes on this machine, one for each GPU.")]
Nodes = Annotated[int, typer.Option(min=1, help="How many machines there are; call this on each of them.")]
NodeRank = Annotated[int, typer.Option(min=0, help="Number of this machine, from 0.")]
Master = Annotated[str, typer.Option(help="Machine 0 and a free port of it, as NAME:PORT.", show_default=False)]
Restarts = Annotated[int, typer.Option(min=0, help="How often to go on from the last checkpoint after a crash.")]


def command(
    target: Target,
    overrides: Overrides = None,
    processes: Count = 1,
    nodes: Nodes = 1,
    node_rank: NodeRank = 0,
    master: Master = "",
    restarts: Restarts = 0,
    force: Force = False,
    json: Json = False,
) -> int:
    """Check a recipe, start its processes, and end all of them with one message when one of them fails."""
    from burnish.api import load_recipe
    from burnish.core.errors import UserError
    from burnish.train.distributed.launch import Launch, check, start
    from burnish.train.folder import RunFolder, is_run, open_run
    from burnish.train.handover import read_recipe

    resumed = is_run(Path(target))
    if resumed and overrides:
        raise UserError("a run goes on as it was begun", where=overrides[0], fix="leave the settings out")
    config = read_recipe(open_run(Path(target))) if resumed else load_recipe(target, overrides or ())
    launch = Launch(processes, nodes, node_rank, master, restarts)
    check(config, launch)
    if not resumed and node_rank == 0:
        RunFolder(config.folder).refuse_if_taken(force)
    given = ["resume", target] if resumed else ["run", target, *(overrides or ()), *(["--force"] if force else [])]
    code = "import sys; from burnish.cli.launched import main; main(sys.argv[1:])"
    return start(["-c", code, *given, *(["--json"] if json else [])], launch, lambda line: typer.echo(line, err=True))
