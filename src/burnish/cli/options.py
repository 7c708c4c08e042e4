"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe file, or the name of an embedded recipe such as `quickstart`.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings to change, as `train.learning_rate=1e-4`.", show_default=False)
]
RunPath = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/quickstart.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing run of this name.")]
