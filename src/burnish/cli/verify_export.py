"""`burnish verify-export`: hold an exported model folder against the run that it came from."""

from __future__ import annotations

from typing import Annotated

import typer

from burnish.cli.options import Json, RunPath

NAME = "verify-export"


def command(
    run: RunPath,
    export: Annotated[str, typer.Argument(help="The exported model folder, such as `burnish merge` wrote.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the compared answers.")] = 16,
    json: Json = False,
) -> int:
    """Compare token ids of prompts and of the chat template, and greedy answers; exit code 3 where they differ."""
    import json as encoder
    from dataclasses import asdict

    from burnish.train.export import compare_export

    report = compare_export(run, export, max_new_tokens=max_new_tokens)
    if json:
        typer.echo(encoder.dumps({**asdict(report), "passed": report.passed}, ensure_ascii=False))
        return 0 if report.passed else 3
    chat = {True: "the same", False: "NOT the same", None: "neither has a template"}[report.same_chat]
    typer.echo(f"token ids of prompts: {report.same_ids} of {report.prompts} the same")
    typer.echo(f"token ids of a conversation: {chat}")
    typer.echo(f"greedy answers: {report.same_answers} of {report.prompts} the same")
    typer.echo(f"largest logit difference: {report.difference:.3g}")
    for example in report.examples[:3]:
        typer.echo(f"  run    {example['run']!r}\n  export {example['export']!r}")
    return 0 if report.passed else 3
