"""`burnish generate`: answer prompts with a run, an adapter or any model."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from burnish.cli.options import Json

NAME = "generate"

Model = Annotated[str, typer.Argument(help="A run folder, an adapter folder, or any model path or hub name.")]
Prompts = Annotated[
    list[str] | None, typer.Argument(help="Prompts; without any they are read from standard input, one a line.")
]


def command(
    model: Model,
    prompts: Prompts = None,
    chat: Annotated[bool, typer.Option(help="Wrap each prompt in the chat template as a user message.")] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 64,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token; higher samples.")] = 0.0,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Sample from this share of the probability.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends an answer; may be given again.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    task: Annotated[str | None, typer.Option(help="The task, for a model with parts of its own for several.")] = None,
    json: Json = False,
) -> int:
    """Answer prompts with the tuned model of a run, an adapter folder, or any model."""
    import json as encoder

    from burnish.core.config import build
    from burnish.core.errors import UserError
    from burnish.data.config import RenderConfig
    from burnish.data.render import Renderer
    from burnish.models.generate import GenerateConfig, refuse_classifier
    from burnish.models.generate_tasks import generate_tasks
    from burnish.train.handover import open_model

    given = [text.replace("\\n", "\n") for text in prompts] if prompts else sys.stdin.read().splitlines()
    given = [text for text in given if text]
    if not given:
        raise UserError("there is no prompt", fix='write one: burnish generate runs/quickstart "Hello"')
    settings = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    config = build(GenerateConfig, {**settings, "stop": tuple(stop or ())}, where="command line")
    loaded = open_model(model)
    refuse_classifier(loaded)
    renderer = Renderer(loaded.tokenizer, RenderConfig(), loaded.kind)
    ids = [renderer.prompt_ids([{"role": "user", "content": t}] if chat else t) for t in given]
    answers = generate_tasks(loaded, ids, [task] * len(ids) if task else (), config)
    for text, answer in zip(given, answers, strict=True):
        row = {"prompt": text, "text": answer.text, "stopped": answer.stopped, "tokens": len(answer.token_ids)}
        typer.echo(encoder.dumps(row, ensure_ascii=False) if json else answer.text)
    return 0
