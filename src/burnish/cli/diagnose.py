"""`burnish diagnose`: what the curves of a run say: rate, data, overfitting, gradients; of other trainers' runs too."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import Json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from burnish.core.findings import Finding
    from burnish.diagnose.series import Series

NAME = "diagnose"
STYLES = {"note": "cyan", "warning": "yellow", "stop": "red"}


def command(
    run: Annotated[
        Path,
        typer.Argument(help="A run folder, a `trainer_state.json` of transformers, or TensorBoard events."),
    ],
    json: Json = False,
) -> int:
    """Read the curves of a run, finished or not, and say what is wrong, since when, why, and what to change.

    Leaves with 0 whatever it finds.
    """
    import json as encoder

    from rich.console import Console

    from burnish.core.files import finite
    from burnish.diagnose.detectors import diagnose
    from burnish.diagnose.runs import read_series

    series = read_series(run)
    findings = diagnose(series)
    if json:
        told = {"run": str(run), "updates": len(series), "evaluations": len(series.validation)}
        told |= {"verdict": verdict(series, findings), "findings": [finding.to_json() for finding in findings]}
        typer.echo(encoder.dumps(finite(told), ensure_ascii=False))
        return 0
    show(run, series, findings, Console(highlight=False))
    return 0


def verdict(series: Series, findings: Sequence[Finding]) -> str:
    """One sentence."""
    faults = [finding for finding in findings if finding.severity != "note"]
    if not len(series) and not series.broken:
        return "nothing was recorded yet"
    if not faults:
        return "nothing is wrong with these curves"
    return f"{len(faults)} fault{'s' if len(faults) > 1 else ''}: {faults[0].what}"


def show(run: Path, series: Series, findings: Sequence[Finding], console: Console) -> None:
    """The verdict, and a table of what, since when, why and fix."""
    from rich.table import Table
    from rich.text import Text

    faults = any(finding.severity != "note" for finding in findings)
    seen = f"{len(series):,} updates, {len(series.validation)} evaluations, {len(series.gradients)} looks at gradients"
    console.print(Text(str(run), style="bold"), Text(f"  {seen}", style="dim"), sep="", soft_wrap=True)
    console.print(Text(verdict(series, findings), style="bold yellow" if faults else "bold green"), soft_wrap=True)
    if not findings:
        return
    table = Table(box=None, pad_edge=False, padding=(1, 2, 0, 0), header_style="dim")
    for name, ratio in (("what", 5), ("since", 1), ("why", 5), ("fix", 4)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for finding in findings:
        since = finding.evidence.get("since")
        what = Text(finding.what, style=STYLES[finding.severity]).append(f"\n{finding.where}", style="dim")
        table.add_row(what, "" if since is None else f"step {since}", Text(finding.why), Text(finding.fix))
    console.print(table)
