"""`burnish merge`: fold a run's adapter into its base, as a plain model folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from burnish.cli.options import Json

NAME = "merge"


def command(
    run: Annotated[Path, typer.Argument(help="A run folder or an adapter folder.")],
    output: Annotated[Path, typer.Argument(help="New folder for the merged model.")],
    dtype: Annotated[str, typer.Option(help="Number format of the merged weights: fp32, bf16 or fp16.")] = "fp32",
    json: Json = False,
) -> int:
    """Write the merged model as a folder that `transformers` loads; report what rounding changed."""
    import json as encoder

    from burnish.train.merging import merge_run

    report = merge_run(run, output, dtype=dtype)
    if json:
        values = {"folder": str(report.folder), "sites": report.sites, "dtype": report.dtype}
        values |= {"difference": report.difference, "effect": report.effect, "scale": report.scale, "kl": report.kl}
        values |= {"before": report.before, "after": report.after, "read_by": report.read_by}
        typer.echo(encoder.dumps(values))
        return 0
    typer.echo(f"merged {report.sites} adapters into {report.folder} ({report.dtype})")
    typer.echo(
        f"largest logit difference, merged against unmerged: {report.difference:.3g} "
        f"(the adapter itself changes logits by up to {report.effect:.3g}); mean KL {report.kl:.2g} nats"
    )
    if report.read_by:
        typer.echo(report.read_by)
    for name, before in report.before.items():
        typer.echo(f"  {name:<12} unmerged {before:.4f}, merged {report.after[name]:.4f}, on held-out rows of the run")
    return 0
