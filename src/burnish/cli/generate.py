"""`burnish generate`: answer prompts with a run, an adapter or any model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from burnish.cli.options import (
    Json,
    MaxNewTokens,
    MinNewTokens,
    NoRepeat,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
    changed,
)

NAME = "generate"

Model = Annotated[str, typer.Argument(help="A run folder, an adapter folder, or any model path or hub name.")]
Prompts = Annotated[
    list[str] | None, typer.Argument(help="Prompts; without any they are read from standard input, one a line.")
]


def command(
    model: Model,
    prompts: Prompts = None,
    chat: Annotated[bool, typer.Option(help="Wrap each prompt in the chat template as a user message.")] = False,
    max_new_tokens: MaxNewTokens = None,
    min_new_tokens: MinNewTokens = None,
    temperature: Temperature = None,
    top_p: TopP = None,
    top_k: TopK = None,
    repetition_penalty: RepetitionPenalty = None,
    no_repeat_ngram_size: NoRepeat = None,
    stop: Stop = None,
    seed: Seed = None,
    task: Annotated[str | None, typer.Option(help="The task, for a model with parts of its own for several.")] = None,
    json: Json = False,
) -> int:
    """Answer prompts with the tuned model of a run, an adapter folder, or any model.

    What is not given here is as a run stored it in `generation_config.json` (its recipe's `evaluate.generate`); for any
    other model 64 tokens, the likeliest each time.
    """
    import json as encoder

    from burnish.core.errors import UserError
    from burnish.data.config import RenderConfig
    from burnish.data.render import Renderer
    from burnish.models.generate import refuse_classifier
    from burnish.models.generate_tasks import generate_tasks
    from burnish.train.handover import open_model, settings_of

    given = [text.replace("\\n", "\n") for text in prompts] if prompts else sys.stdin.read().splitlines()
    given = [text for text in given if text]
    if not given:
        raise UserError("there is no prompt", fix='write one: burnish generate runs/quickstart "Hello"')
    given_settings = {
        "max_new_tokens": max_new_tokens,
        "min_new_tokens": min_new_tokens,
        "temperature": temperature,
        "top_p": top_p,
        "top_k": top_k,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size,
        "stop": tuple(stop) if stop else None,
        "seed": seed,
    }
    config = changed(settings_of(model), given_settings)
    loaded = open_model(model)
    refuse_classifier(loaded)
    renderer = Renderer(loaded.tokenizer, RenderConfig(), loaded.kind)
    ids = [renderer.prompt_ids([{"role": "user", "content": t}] if chat else t) for t in given]
    answers = generate_tasks(loaded, ids, [task] * len(ids) if task else (), config)
    for text, answer in zip(given, answers, strict=True):
        row = {"prompt": text, "text": answer.text, "stopped": answer.stopped, "tokens": len(answer.token_ids)}
        typer.echo(encoder.dumps(row, ensure_ascii=False) if json else answer.text)
    return 0
