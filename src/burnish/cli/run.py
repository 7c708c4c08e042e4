"""`burnish run`: train from a recipe, evaluate, hand over, report."""

from __future__ import annotations

from burnish.cli.options import Force, Json, Overrides, Recipe

NAME = "run"


def command(recipe: Recipe, overrides: Overrides = None, force: Force = False, json: Json = False) -> int:
    """Fine-tune a model from a recipe: check, train, evaluate against the base model, save, report."""
    from burnish.api import load_recipe, run
    from burnish.cli.display import display, show_result

    config = load_recipe(recipe, overrides or ())
    with display(json) as callback:
        result = run(config, force=force, callbacks=[callback])
    return show_result(result, json)
