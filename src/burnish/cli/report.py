"""`burnish report`: write the page of a run again."""

from __future__ import annotations

import typer

from burnish.cli.options import Json, RunPath

NAME = "report"


def command(run: RunPath, json: Json = False) -> int:
    """Write report.html of a run again from the files in its folder, and print where it is."""
    import json as encoder

    from burnish.report.page import build_report
    from burnish.train.folder import open_run

    page = build_report(open_run(run).path)
    typer.echo(encoder.dumps({"report": str(page)}) if json else str(page))
    return 0
