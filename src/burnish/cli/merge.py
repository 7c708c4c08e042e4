"""`burnish merge`: fold a run's adapter into its base, as a plain model folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish.cli.options import Json

NAME = "merge"


def command(
    run: Annotated[Path, typer.Argument(help="A run folder or an adapter folder.")],
    output: Annotated[Path, typer.Argument(help="New folder for the merged model.")],
    dtype: Annotated[str, typer.Option(help="Number format of the merged weights: fp32, bf16 or fp16.")] = "fp32",
    base: Annotated[
        str, typer.Option(help="After training on weights of 4 bits: merge into the full, dequantized or best base.")
    ] = "best",
    json: Json = False,
) -> int:
    """Write the merged model as a folder that `transformers` loads; report what rounding changed."""
    import json as encoder

    from burnish.train.merging import merge_run

    report = merge_run(run, output, dtype=dtype, base=base)
    if json:
        values = {"folder": str(report.folder), "sites": report.sites, "dtype": report.dtype}
        values |= {"difference": report.difference, "effect": report.effect, "scale": report.scale, "kl": report.kl}
        values |= {"before": report.before, "after": report.after, "read_by": report.read_by}
        values["bases"] = [vars(found) for found in report.bases]
        typer.echo(encoder.dumps(values))
        return 0
    typer.echo(f"merged {report.sites} adapters into {report.folder} ({report.dtype})")
    typer.echo(
        f"largest logit difference, merged against unmerged: {report.difference:.3g} "
        f"(the adapter itself changes logits by up to {report.effect:.3g}); mean KL {report.kl:.2g} nats"
    )
    show_bases(report.bases)
    if report.read_by:
        typer.echo(report.read_by)
    for name, before in report.before.items():
        typer.echo(f"  {name:<12} unmerged {before:.4f}, merged {report.after[name]:.4f}, on held-out rows of the run")
    return 0


def show_bases(bases: Sequence[Any]) -> None:
    """What merging into each base came to, as a table; nothing where there was one base only."""
    if not bases:
        return
    metrics = list(bases[0].metrics)
    rows = [["base", "largest logit difference", "mean KL", *metrics]]
    for found in bases:
        numbers = [f"{found.difference:.3g}", f"{found.kl:.2g}", *(f"{found.metrics[m]:.4f}" for m in metrics)]
        rows.append([found.base + (" (taken)" if found.taken else ""), *numbers])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    typer.echo("held against the model as it was trained, on held-out rows:")
    for row in rows:
        typer.echo("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
