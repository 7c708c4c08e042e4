"""`burnish recommend`: which method suits a recipe, by the field's rules and by short trials on its own rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from burnish.cli.options import Json, Overrides, Recipe

if TYPE_CHECKING:
    from rich.console import Console

    from burnish.compare.recommend import Asked, Recommendation
    from burnish.plan.rules import Prior

NAME = "recommend"


def command(
    recipe: Recipe,
    overrides: Overrides = None,
    latency: Annotated[bool, typer.Option("--latency", help="What a forward pass takes counts.")] = False,
    stability: Annotated[bool, typer.Option("--stability", help="It counts that every run comes out alike.")] = False,
    tasks: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tasks that share one base; by default those that the recipe names.", show_default=False
        ),
    ] = None,
    card: Annotated[
        str | None, typer.Option(help="Memory of a GPU by name in the place of this machine's.", show_default=False)
    ] = None,
    trials: Annotated[bool, typer.Option("--trials/--no-trials", help="Test the rule, or say what it says.")] = True,
    methods: Annotated[
        str | None,
        typer.Option(help="Candidates beside the rule's, as for compare-methods: `lora,full`.", show_default=False),
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="Training time of all trials together.", show_default=False)
    ] = None,
    updates: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Updates of all trials together. Without a limit a finalist trains as long as the recipe says.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            help="Trained parameters of each: `300k`, `1%`. Without it each has its own size.", show_default=False
        ),
    ] = None,
    finalists: Annotated[int, typer.Option(min=2, help="Candidates that come to their end.")] = 2,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each finalist.")] = 3,
    output: Annotated[
        Path | None, typer.Option(help="Folder; by default runs/recommend-NAME.", show_default=False)
    ] = None,
    json: Json = False,
) -> int:
    """Say what the rule for the situation is, and test it by short trials with successive halving.

    Only validation rows decide; the test rows are not looked at. The recommended settings are written as a file for
    `burnish run RECIPE @recommended.yaml`. Called again, the command continues: what was trained is not trained again.
    """
    from burnish.compare.recommend import SETTINGS
    from burnish.core.errors import UserError

    if minutes is not None and updates is not None:
        raise UserError("two budgets are given", where="--minutes, --updates", fix="give one of them")
    asked = _asked(
        recipe,
        overrides,
        budget,
        output,
        situation={"card": card, "tasks": tasks, "latency": latency, "stability": stability},
        candidates=methods,
        finalists=finalists,
        seeds=seeds,
        updates=updates,
        minutes=minutes,
    )
    _answered(asked, trials, json)
    if not json:
        written = " ".join([*(overrides or ()), f"@{asked.output / SETTINGS}"])
        typer.echo(f"\ntrain it    burnish run {recipe} {written}\nfolder      {asked.output}")
    return 0


def _asked(
    recipe: str,
    overrides: list[str] | None,
    budget: str | None,
    output: Path | None,
    *,
    situation: dict[str, Any],
    **settings: Any,
) -> Asked:
    """The question, with what the rules say to it."""
    from burnish.api import load_recipe
    from burnish.compare.recommend import Asked
    from burnish.forecast.situation import situation_of
    from burnish.models.shapes import shapes_of
    from burnish.plan.budget import read_budget
    from burnish.plan.rules import prior

    config, parameters = load_recipe(recipe, overrides or ()), None
    if budget:
        model = shapes_of(config.model, headless=config.classifies)
        parameters = read_budget(budget, sum(p.numel() for p in model.parameters()))
    folder = output or Path("runs") / f"recommend-{config.name}"
    said = prior(situation_of(config, **situation))
    return Asked(config, said, folder.resolve(), budget=parameters, **settings)


def _answered(asked: Asked, trials: bool, json: bool) -> Recommendation:
    """The answer, shown."""
    import json as encoder

    from rich.console import Console

    from burnish.cli.compared import listening
    from burnish.compare.recommend import recommend, rule_alone
    from burnish.core.files import finite

    aside = Console(stderr=True, highlight=False)
    if not json:
        show_prior(asked.prior, aside if trials else Console(highlight=False))
    if trials:
        with listening(Console(stderr=True), "preparing the trials") as listener:
            found = recommend(asked, listener)
    else:
        found = rule_alone(asked)
    if json:
        typer.echo(encoder.dumps(finite(found.to_json()), ensure_ascii=False))
    else:
        show(found, Console(highlight=False))
    return found


def show_prior(said: Prior, console: Console) -> None:
    """The situation, and the rule with its reason and source."""
    from rich.text import Text

    for name, value in said.situation.words():
        console.print(Text(f"{name:<18}", style="dim").append(value, style="default"), soft_wrap=True)
    finding = said.finding()
    console.print(Text(f"\n{finding.what}", style="bold"), soft_wrap=True)
    console.print(Text(finding.why, style="dim"), soft_wrap=True)
    for rule in said.also:
        console.print(Text(f"also: {rule.name}, whose rule says {rule.method}", style="dim"), soft_wrap=True)
    for name, why in said.left_out.items():
        console.print(Text(f"not a candidate: {name}, since {why}", style="dim"), soft_wrap=True)
    console.print()


def show(found: Recommendation, console: Console) -> None:
    """What was found and what it rests on, and every candidate."""
    from rich.table import Table
    from rich.text import Text

    from burnish.cli.fronts import show_words
    from burnish.compare import words
    from burnish.compare.basis import NAMES as METRIC_NAMES

    verdict = found.verdict
    if not console.is_terminal:
        from rich.console import Console as Made

        console = Made(file=console.file, width=150, highlight=False)
    show_words(console, verdict.words())
    if not verdict.lines:
        return
    console.print(Text(f"\n{METRIC_NAMES[verdict.metric]} on {verdict.rows:,} validation rows", style="bold"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("method", "value", "95 % interval", "seeds", "updates", "difference to the rule's", ""):
        table.add_column(name, justify="left" if name in ("method", "") else "right", no_wrap=bool(name))
    against = {pair.first: pair.difference for pair in verdict.pairs}
    for line in verdict.lines:
        one, pair = line.value, against.get(line.label)
        beside = f"{pair.value:+.3f} ({pair.low:+.3f} to {pair.high:+.3f})" if pair else ""
        remark = "the rule's" if line.label == verdict.rule else ""
        remark = "failed" if line.why_not else remark or ("" if line.finalist else "stopped early")
        table.add_row(
            Text(line.label, style="bold green" if line.label == verdict.method else ""),
            words.quality(one) if one else words.DASH,
            words.interval(one) if one else "",
            str(line.seeds or ""),
            f"{line.step:,} of {line.total:,}" if line.total else "",
            beside,
            Text(remark, style="red" if line.why_not else "dim"),
        )
    console.print(table)
    for line in verdict.lines:
        if line.why_not:
            console.print(Text(f"{line.label}: ", style="red").append(line.why_not, style="default"), soft_wrap=True)
