"""`burnish replay-batch`: compute the update again that stopped a run, and see where it goes wrong."""

from __future__ import annotations

import typer

from burnish.cli.options import Json, RunPath

NAME = "replay-batch"


def command(run: RunPath, json: Json = False) -> int:
    """Compute the refused update of a run again: the loss of each row, and where the first value is not finite."""
    import json as encoder

    from rich.console import Console
    from rich.table import Table

    from burnish.core.files import finite
    from burnish.train.stopped import replay

    found = replay(run)
    if json:
        typer.echo(encoder.dumps(finite(found.to_json())))
        return 0
    console = Console()
    console.print(f"update {found.step}: {found.what}", markup=False)
    table = Table("row", "trained tokens", "mean loss", box=None)
    for row in found.rows:
        loss = f"{row['loss']:.4f}" if row["loss"] is not None else "[red]not finite[/red]"
        name = f"replayed {row['row']}" if row.get("source") else str(row["row"])
        table.add_row(name, str(row["tokens"]), loss)
    console.print(table)
    for title, names in (
        ("weights that are not finite", found.weights),
        ("first modules that make something not finite", found.modules),
        ("gradients that are not finite", found.gradients),
    ):
        console.print(f"{title}: {', '.join(names[:6]) or 'none'}", markup=False)
    console.print(f"gradient norm: {found.grad_norm if found.grad_norm is not None else 'not finite'}")
    return 0
