"""`burnish chat`: talk to a run, an adapter or any model with a chat template."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.options import NoRepeat, RepetitionPenalty, Seed, Stop, Temperature, TopP, changed

NAME = "chat"


def command(
    model: Annotated[str, typer.Argument(help="A run folder, an adapter folder, or any model path or hub name.")],
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    temperature: Temperature = None,
    top_p: TopP = None,
    repetition_penalty: RepetitionPenalty = None,
    no_repeat_ngram_size: NoRepeat = None,
    stop: Stop = None,
    seed: Seed = None,
    task: Annotated[str | None, typer.Option(help="The task, for a model with parts of its own for several.")] = None,
) -> int:
    """Talk to a model. `/new` starts over; Ctrl-D or `/quit` leaves.

    What is not given here is as a run stored it in `generation_config.json`, save the length, which suits a talk.
    """
    from burnish.core.errors import UserError
    from burnish.data.config import RenderConfig
    from burnish.data.render import Renderer
    from burnish.models.generate import refuse_classifier, stream
    from burnish.models.route import for_task, refuse_missing_task
    from burnish.train.handover import open_model, settings_of

    loaded = open_model(model)
    refuse_classifier(loaded)
    if not loaded.tokenizer.chat_template:
        raise UserError(
            "this model has no chat template", where=model, fix="use `burnish generate`, or set `model.chat_template`"
        )
    renderer = Renderer(loaded.tokenizer, RenderConfig(), loaded.kind)
    given = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "stop": tuple(stop) if stop else None,
        "seed": seed,
    }
    config = changed(settings_of(model), given)
    opening = [{"role": "system", "content": system}] if system else []
    messages = list(opening)
    while (line := ask()) not in (None, "/quit"):
        if line == "/new":
            messages = list(opening)
            continue
        if not line:
            continue
        messages.append({"role": "user", "content": line})
        answer = ""
        with for_task(loaded.model, task):
            refuse_missing_task(loaded.model)
            for piece in stream(loaded, renderer.prompt_ids(messages), config):
                answer += piece
                typer.echo(piece, nl=False)
        typer.echo()
        messages.append({"role": "assistant", "content": answer})
    return 0


def ask() -> str | None:
    """One line from the person; None at the end of the input."""
    try:
        return input("> ").strip()
    except EOFError:
        return None
