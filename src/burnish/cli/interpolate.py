"""`burnish interpolate`: weights between the original and the tuned model, by task and by what is still known."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.options import Json, RunPath

NAME = "interpolate"

Tolerance = Annotated[
    str, typer.Option(help="How much of what the original knew may be lost: `1%` or `0.01`.", show_default=True)
]


def command(
    run: RunPath,
    alphas: Annotated[
        str, typer.Option(help="Places between the original (0) and the tuned model (1); both are always scored.")
    ] = "0,0.2,0.4,0.6,0.8,1",
    tolerance: Tolerance = "1%",
    json: Json = False,
) -> int:
    """Score (1 - alpha) original + alpha tuned on the validation rows, and write the best alpha for the tolerance.

    Works for full tuning and for adapters that change weights (LoRA, VeRA, AdaLoRA, (IA)^3, biases, norms); the export
    in RUN/interpolated is an adapter or a model like RUN/final. WiSE-FT, Wortsman et al., 2022.
    """
    from rich.console import Console

    from burnish.cli.fronts import read_alphas, read_share, show_afterwards
    from burnish.compare.afterwards import interpolate_run

    console = Console(stderr=True, highlight=False)
    places, share = read_alphas(alphas), read_share(tolerance)
    result = interpolate_run(run, places, share, heard=lambda text: console.print(text, style="dim"))
    return show_afterwards(result, as_json=json)
