"""`burnish lr-range`: a learning rate from a short test that raises it until the loss complains; nothing is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from burnish.cli.options import Json, Overrides, Recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from burnish.train.lr_range import RangeTest

NAME = "lr-range"
WIDTH, HEIGHT = 72, 12


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    low: Annotated[
        float | None, typer.Option("--from", min=0.0, help="First rate; by default 1/100 of the recipe's.")
    ] = None,
    high: Annotated[
        float | None, typer.Option("--to", min=0.0, help="Last rate; by default 100 times the recipe's.")
    ] = None,
    updates: Annotated[int, typer.Option(min=20, max=1000, help="Updates from the first rate to the last.")] = 80,
    html: Annotated[
        Path | None, typer.Option(help="Also write a page with the curve to this file.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Train from the starting weights with a rate that rises from update to update, and suggest one for the run.

    The test ends as soon as the smoothed loss exceeds 1.3 times its minimum. No weights are kept, and
    nothing but the page of `--html` is written.
    """
    import json as encoder

    from rich.console import Console

    from burnish.api import load_recipe
    from burnish.cli.display import display
    from burnish.compare.rate_page import write_rate_page
    from burnish.core.files import finite
    from burnish.train.lr_range import range_test

    config = load_recipe(recipe, overrides or ())
    with display(False) as shown:
        found = range_test(config, low=low, high=high, updates=updates, callbacks=() if json else (shown,))
    if html:
        write_rate_page(found, html, subject=f"{config.name}: {config.model.path}")
    if json:
        typer.echo(encoder.dumps(finite(found.to_json()), ensure_ascii=False))
        return 0
    show(found, Console(highlight=False))
    if html:
        typer.echo(f"\npage        {html}")
    return 0


LETTERS = {"R": "R the recipe's rate", "S": "S suggested", "*": "* suggested, and the recipe's rate"}


def show(found: RangeTest, console: Console) -> None:
    """The curve, what it says, and the line for the recipe."""
    from rich.text import Text

    from burnish.diagnose.rates import written

    finding = found.finding()
    console.print()
    for line in plot(found):
        console.print(Text(line), soft_wrap=True)
    console.print(Text(f"\n{len(found.rates)} updates; {found.ended}", style="dim"))
    style = "bold yellow" if finding.severity == "warning" else "bold green"
    console.print(Text(finding.what, style=style), soft_wrap=True)
    console.print(Text(finding.why, style="dim"), soft_wrap=True)
    console.print(Text(f"the recipe trains with {found.recipe_rate:.2g}: {found.recipe_reason}", style="dim"))
    if found.suggestion.rate is not None:
        console.print(f"\n[dim]# into the recipe[/dim]\ntrain: {{learning_rate: {written(found.suggestion.rate)}}}")


def plot(found: RangeTest) -> Iterator[str]:
    """The smoothed loss against the logarithm of the rate; `R` marks the recipe's rate, `S` the suggested, `*` both."""
    import math

    import numpy as np

    from burnish.diagnose.rates import smooth

    values = smooth(np.asarray(found.losses))
    logs = np.log10(found.rates)
    low, top = float(values.min()), float(min(values.max(), 1.5 * values[0]))
    span = max(top - low, 1e-9)
    columns = np.round((logs - logs[0]) / max(1e-9, logs[-1] - logs[0]) * (WIDTH - 1)).astype(int)
    rows = np.round((np.minimum(values, top) - low) / span * (HEIGHT - 1)).astype(int)
    cells = [[" "] * WIDTH for _ in range(HEIGHT)]
    for column, row in zip(columns, rows, strict=True):
        cells[HEIGHT - 1 - row][column] = "•"
    decimals = min(6, max(0, math.ceil(-math.log10(span / (HEIGHT - 1)))))
    for number, line in enumerate(cells):
        value = top - span * number / (HEIGHT - 1)
        yield f"{value:8.{decimals}f} ┤{''.join(line).rstrip()}"
    marks = [" "] * WIDTH
    for rate, letter in ((found.recipe_rate, "R"), (found.suggestion.rate, "S")):
        place = (math.log10(rate) - logs[0]) / max(1e-9, logs[-1] - logs[0]) if rate else -1.0
        if 0 <= place <= 1:
            column = round(place * (WIDTH - 1))
            marks[column] = letter if marks[column] == " " else "*"
    yield f"{'':8} └{'─' * WIDTH}"
    yield f"{'':10}{''.join(marks).rstrip()}"
    ends = f"{found.rates[0]:.1e}", f"{found.rates[-1]:.1e}"
    shown = [word for letter, word in LETTERS.items() if letter in marks]
    yield f"{'':10}{', '.join(shown)}"
    yield f"{'':10}{ends[0]}{'learning rate'.center(WIDTH - len(ends[0]) - len(ends[1]))}{ends[1]}"
