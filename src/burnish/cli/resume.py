"""`burnish resume`: continue a run from its newest whole checkpoint."""

from __future__ import annotations

from burnish.cli.options import Json, RunPath

NAME = "resume"


def command(run: RunPath, json: Json = False) -> int:
    """Continue a run that was interrupted; the result equals that of a run that never was."""
    from burnish.api import resume
    from burnish.cli.display import display, show_result

    with display(json) as callback:
        result = resume(run, callbacks=[callback])
    return show_result(result, json)
