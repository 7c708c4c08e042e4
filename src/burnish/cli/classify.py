"""`burnish classify`: tell the class of texts with a run that has learnt to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from burnish.cli.options import Json

NAME = "classify"


def command(
    model: Annotated[str, typer.Argument(help="A run folder, or a folder that `burnish merge` wrote.")],
    texts: Annotated[
        list[str] | None, typer.Argument(help="Texts; without any they are read from standard input, one a line.")
    ] = None,
    pair: Annotated[str | None, typer.Option(help="Second text, for a classification of pairs.")] = None,
    task: Annotated[str | None, typer.Option(help="The task, for a model with parts of its own for several.")] = None,
    json: Json = False,
) -> int:
    """Print the likeliest class of every text with its probability; with `--json` the probabilities of all classes."""
    import json as encoder

    from burnish.core.errors import UserError
    from burnish.evaluate.classes import head_of, probabilities
    from burnish.models.route import for_task
    from burnish.train.handover import open_model

    given = [text for text in (texts or sys.stdin.read().splitlines()) if text]
    if not given:
        raise UserError("there is no text", fix='write one: burnish classify runs/sentiment-encoder "What a day!"')
    loaded = open_model(model)
    labels = head_of(loaded).labels
    with for_task(loaded.model, task):
        scores = probabilities(loaded, given, [pair] * len(given) if pair is not None else None)
    for text, row in zip(given, scores, strict=True):
        shares = {label: float(p) for label, p in zip(labels, row, strict=True)}
        best = labels[int(row.argmax())]
        line = encoder.dumps({"text": text, "label": best, "probabilities": shares}, ensure_ascii=False)
        typer.echo(line if json else f"{best}\t{row.max():.3f}\t{text}")
    return 0
