"""Which method? The rule for the situation, and short trials on the validation rows that confirm or overturn it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from burnish.compare.halving import cost, stops
from burnish.compare.racing import Racer
from burnish.compare.run import Listener, deciding, refuse_all_refused, steps_within
from burnish.compare.trials import Prepared, Wanted, prepare
from burnish.compare.variants import RATE, Variant, read_variants, recipe_of
from burnish.compare.verdict import Verdict, course, decide, untested
from burnish.core.errors import UserError
from burnish.core.files import write_atomic, write_json
from burnish.plan.rules import Prior
from burnish.train.config import RunConfig

RESULTS, SETTINGS = "recommend.json", "recommended.yaml"
FEWEST = 8
"""Updates of a whole trial without which nothing can be said."""
FIRST = 0.25
"""Share of a trial at the first stop: earlier, methods differ by how fast they warm up."""
ETA = 3.0


@dataclass(frozen=True)
class Asked:
    """What is to be recommended.

    Attributes:
        config: The recipe.
        prior: What the rules say.
        output: Folder of the trials.
        candidates: As ``--methods`` names them; those of the prior without any.
        finalists: Candidates that come to their end, the rule's among them.
        seeds: Runs of each finalist.
        updates: Of all trials together; None trains a finalist as long as the recipe says.
        minutes: Training time of all trials together, in the place of updates.
        budget: Trained parameters of each candidate; None leaves each its own size.
    """

    config: RunConfig
    prior: Prior
    output: Path
    candidates: str | None = None
    finalists: int = 2
    seeds: int = 3
    updates: int | None = None
    minutes: float | None = None
    budget: int | None = None

    @property
    def variants(self) -> list[Variant]:
        """The candidates, the rule's first."""
        first = read_variants(self.prior.method)
        rest = read_variants(self.candidates or ",".join(self.prior.candidates))
        return first + [one for one in rest if one.slug.lower() != first[0].slug.lower()]


@dataclass(frozen=True)
class Recommendation:
    """The answer.

    Attributes:
        prior: What the rules say.
        verdict: What the trials say of it.
        overrides: The settings to lay over the recipe.
        about: What was tried.
    """

    prior: Prior
    verdict: Verdict
    overrides: dict[str, Any]
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """For ``recommend.json``."""
        return {
            "about": self.about,
            "prior": self.prior.to_json(),
            "recommended": {"method": self.verdict.method, "settings": self.overrides},
            "trials": self.verdict.to_json(),
        }


def recommend(asked: Asked, listener: Listener | None = None) -> Recommendation:
    """Run the trials, or what is left of them; the files are written after every stretch.

    Raises:
        UserError: The recipe does not suit trials, no candidate can be run, or the budget is too small.
    """
    _refuse_stages(asked.config)
    listener = listener or Listener()
    prepared = _sized(asked, listener)
    racer = Racer(listener)
    racer.failures |= {one.variant.label: one.refused for one in prepared if one.refused}
    trials = {one.variant.label: one.trials for one in prepared if one.trials}
    planned = stops(len(trials), asked.finalists, ETA, FIRST)
    kept = min(asked.finalists, len(trials))
    racer.total = len(trials) + sum(stop.kept for stop in planned) + kept * (asked.seeds - 1)
    labels, metric, rule = [one.variant.label for one in prepared], deciding(asked.config), asked.prior.method
    by_label = {one.label: one for one in asked.variants}
    settings = settings_of(asked.config, by_label[rule], asked.budget)

    def note(alive: list[str]) -> Recommendation:
        so_far = replace(decide(labels, rule, (), metric, racer), kind="unfinished", method=rule)
        return _written(asked, so_far, settings)

    finalists = course(trials, rule, planned, asked.seeds, metric, racer, note)
    verdict = decide(labels, rule, finalists, metric, racer)
    if verdict.method != rule:
        settings = settings_of(asked.config, by_label[verdict.method], asked.budget)
    return _written(asked, verdict, settings)


def rule_alone(asked: Asked) -> Recommendation:
    """What the rule says, without trials.

    Raises:
        UserError: The rule's method does not fit the recipe.
    """
    settings = settings_of(asked.config, asked.variants[0], asked.budget)
    return _written(asked, untested(asked.prior.method), settings)


def _written(asked: Asked, verdict: Verdict, settings: dict[str, Any]) -> Recommendation:
    about = {
        "recipe": asked.config.name,
        "model": asked.config.model.path,
        "finalists": asked.finalists,
        "seeds": asked.seeds,
        "updates": asked.updates,
        "minutes": asked.minutes,
        "budget": asked.budget,
    }
    found = Recommendation(asked.prior, verdict, settings, about)
    write_json(asked.output / RESULTS, found.to_json())
    write_atomic(asked.output / SETTINGS, yaml.safe_dump(found.overrides, sort_keys=False, allow_unicode=True))
    return found


def settings_of(config: RunConfig, variant: Variant, budget: int | None = None) -> dict[str, Any]:
    """What a variant changes of a recipe, as a file of settings: its adapters, its rate, its base."""
    if budget is not None:
        sized = prepare(Wanted(config, [variant], 1, Path(), budget, timed=False))[0]
        values = sized.trials[0].recipe if sized.trials else recipe_of(config, variant)
    else:
        values = recipe_of(config, variant)
    before = config.model_dump(mode="json", exclude_unset=True)
    found: dict[str, Any] = {"adapter": values["adapter"]}
    if values.get("train", {}).get(RATE) != before.get("train", {}).get(RATE):
        found["train"] = {RATE: values.get("train", {}).get(RATE)}
    model = {k: v for k, v in values["model"].items() if v != before["model"].get(k)}
    return {"model": model, **found} if model else found


def _refuse_stages(config: RunConfig) -> None:
    if config.stages:
        raise UserError(
            "the recipe has stages, each of which trains methods that are named there",
            where="stages",
            fix="ask with `stages=[]` and a `train.num_epochs`, or for the rule alone: `--no-trials`",
        )


def _sized(asked: Asked, listener: Listener) -> list[Prepared]:
    """The candidates as runs of the length that the budget allows."""
    first = _prepared(asked, None)
    refuse_all_refused(first, "--methods")
    count = sum(1 for one in first if one.trials)
    wholes = cost(count, asked.finalists, ETA, FIRST, asked.seeds)
    own = asked.prior.situation.updates or None
    length = int(asked.updates / wholes) if asked.updates is not None else None
    if asked.minutes is not None:
        length = _length_within(asked.minutes * 60 / wholes, first, listener)
    if length is None:
        return first
    if length < FEWEST:
        raise UserError(
            f"{count} candidates with {asked.seeds} seeds of the finalists get {length} updates each, too few to say",
            where="--updates" if asked.updates is not None else "--minutes",
            fix="ask for more, for fewer `--seeds`, or name fewer `--methods`",
        )
    return first if own and length >= own else _prepared(asked, length)


def _prepared(asked: Asked, length: int | None) -> list[Prepared]:
    extra = ("evaluate.retention=none", *((f"train.max_steps={length}",) if length else ()))
    variants = [replace(one, overrides=(*one.overrides, *extra)) for one in asked.variants]
    wanted = Wanted(asked.config, variants, asked.seeds, asked.output, asked.budget, timed=False)
    return prepare(wanted)


def _length_within(seconds: float, prepared: Sequence[Prepared], listener: Listener) -> int | None:
    """Updates that the slowest candidate makes in a time; those whose pace cannot be measured will say why later."""
    found = [steps_within(one.trials[0], seconds, listener) for one in prepared if one.trials]
    return min((steps for steps in found if isinstance(steps, int)), default=None)
