"""`burnish classify`: ask a run that has learnt classes, entities, answers in a context or scores."""

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
    pair: Annotated[
        str | None,
        typer.Option(
            "--pair", "--context", help="Second text of a pair, context of a question, or answer to a prompt."
        ),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="The task, for a model with a head or other parts for each of several.")
    ] = None,
    json: Json = False,
) -> int:
    """Print what the model's head says of every text, with its probability; with `--json` all that it knows.

    That is the likeliest class, all classes of a text, the entities in it with their places, the answer to a question
    in its `--context`, or a score.
    """
    import json as encoder

    from burnish.core.errors import UserError
    from burnish.evaluate.predict import answer_texts, line_of
    from burnish.train.handover import open_model

    given = [text for text in (texts or sys.stdin.read().splitlines()) if text]
    if not given:
        raise UserError("there is no text", fix='write one: burnish classify runs/sentiment-encoder "What a day!"')
    loaded = open_model(model)
    for answer in answer_texts(loaded, given, [pair] * len(given) if pair is not None else None, task):
        typer.echo(encoder.dumps(answer, ensure_ascii=False) if json else line_of(loaded, answer))
    return 0
