"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Recipe = Annotated[str, typer.Argument(help="A recipe file, or the name of an embedded recipe such as `quickstart`.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="Settings to change, as `train.learning_rate=1e-4`; `@FILE.yaml` lays a file of settings over the recipe.",
        show_default=False,
    ),
]
RunPath = Annotated[Path, typer.Argument(help="The folder of a run, such as runs/quickstart.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Force = Annotated[bool, typer.Option("--force", help="Replace an existing run of this name.")]

MaxNewTokens = Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")]
MinNewTokens = Annotated[int | None, typer.Option(min=0, help="Shortest answer in tokens.")]
Temperature = Annotated[float | None, typer.Option(min=0.0, help="0 takes the likeliest token; higher samples.")]
TopP = Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Sample from this share of the probability.")]
TopK = Annotated[int | None, typer.Option(min=0, help="Sample from this many tokens; 0 takes all.")]
RepetitionPenalty = Annotated[float | None, typer.Option(help="Above 1, what has occurred becomes less likely.")]
NoRepeat = Annotated[int | None, typer.Option(min=0, help="No so many tokens in a row occur twice; 0 allows all.")]
Stop = Annotated[list[str] | None, typer.Option(help="Text that ends an answer; may be given again.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the sampling.")]


def changed(stored: Any, given: dict[str, Any]) -> Any:
    """Stored generation settings with those that were given in their place.

    Raises:
        UserError: They contradict each other, or one is out of its range.
    """
    from burnish.core.config import build

    values = {**stored.model_dump(), **{name: value for name, value in given.items() if value is not None}}
    return build(type(stored), values, where="command line")
