"""The comparison from end to end: size, pace, run what is not done yet, gather, write after every run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from burnish.compare.keys import key_of
from burnish.compare.outcome import Outcome, finished, read_outcome
from burnish.compare.page import write_page
from burnish.compare.process import call
from burnish.compare.race import Stand
from burnish.compare.results import Results, gather
from burnish.compare.trials import Prepared, Trial, Wanted, prepare, reason
from burnish.compare.variants import configured
from burnish.core.errors import UserError
from burnish.core.files import write_json
from burnish.train.config import RunConfig

Outcomes = Mapping[str, Sequence[Outcome]]
RESULTS, PAGE, CHART = "compare.json", "compare.html", "compare.svg"


@dataclass(frozen=True)
class Listener:
    """Who is told how far it is; all of it may be left out.

    Attributes:
        begins: A run begins: its number from 0, how many there are, its trial.
        moves: What a run tells: ``stage``, or ``step`` and ``total``.
        ends: A run has ended: its trial, and what it came to, or the reason why not.
        skips: A run was done before.
    """

    begins: Callable[[int, int, Trial], None] = lambda number, total, trial: None
    moves: Callable[[Mapping[str, Any]], None] = lambda told: None
    ends: Callable[[Trial, Outcome | Stand | str], None] = lambda trial, result: None
    skips: Callable[[Trial], None] = lambda trial: None


def compare_methods(wanted: Wanted, listener: Listener | None = None) -> Results:
    """Run a comparison, or what is left of it; ``compare.json`` and ``compare.html`` are written after every run.

    Seeds take turns over all variants, so that a comparison that is interrupted has seen all of them equally often.

    Raises:
        UserError: No variant can be run at all.
    """
    prepared = prepare(wanted)
    refuse_all_refused(prepared, "--methods")
    results = collected(wanted, prepared, {}, {})

    def note(outcomes: Outcomes, failures: Mapping[str, str]) -> None:
        nonlocal results
        results = collected(wanted, prepared, outcomes, failures)
        write(results, wanted.output)

    run_trials(wanted, prepared, listener or Listener(), note)
    return results


def refuse_all_refused(prepared: Sequence[Prepared], where: str) -> None:
    """Refuse a comparison of which nothing can be run.

    Raises:
        UserError: With the reason of the first variant.
    """
    if all(one.refused for one in prepared):
        first = prepared[0]
        raise UserError(f"no variant can be run; `{first.variant.label}`: {first.refused}", where=where)


def run_trials(
    wanted: Wanted,
    prepared: Sequence[Prepared],
    listener: Listener,
    note: Callable[[Outcomes, Mapping[str, str]], None],
) -> None:
    """Run all that is not done yet, one after the other, the seeds taking turns over the variants.

    Args:
        wanted: What is to be compared.
        prepared: The variants, ready.
        listener: Who is told how far it is.
        note: Called after every run with the outcomes by label, and why others failed.
    """
    failures: dict[str, str] = {}
    outcomes: dict[str, list[Outcome]] = {one.variant.label: [] for one in prepared}
    trials = [one.trials[seed] for seed in range(wanted.seeds) for one in prepared if one.trials]
    steps: dict[str, int] = {}
    for number, trial in enumerate(trials):
        label = trial.variant.label
        if label in failures:
            continue  # what failed once fails with every seed
        listener.begins(number, len(trials), trial)
        result = _one(wanted, trial, steps, listener)
        if isinstance(result, str):
            failures[label] = result
        else:
            outcomes[label].append(result)
        note(outcomes, failures)


def collected(
    wanted: Wanted,
    prepared: Sequence[Prepared],
    outcomes: Outcomes,
    failures: Mapping[str, str],
) -> Results:
    """The comparison so far."""
    config = wanted.config
    about = {
        "recipe": config.name,
        "model": config.model.path,
        "budget": wanted.budget,
        "minutes": wanted.minutes,
        "train_rows": config.data.train_rows,
    }
    return gather(prepared, outcomes, failures, metric=deciding(config), seeds=wanted.seeds, about=about)


def deciding(config: RunConfig) -> str:
    """The metric that a recipe is judged by: the one that chooses its checkpoint, or macro-F1 where it has classes."""
    known = config.early_stopping.metric
    classes = config.classifies or bool(config.evaluate.choices)
    return known if known != "loss" or not classes else "macro_f1"


def write(results: Results, output: Path) -> None:
    """The results so far."""
    write_json(output / RESULTS, results.to_json())
    write_page(results, output / PAGE, output / CHART)


def _one(wanted: Wanted, trial: Trial, steps: dict[str, int], listener: Listener) -> Outcome | str:
    """A run's outcome, from its folder if it was done before; or why there is none."""
    label = trial.variant.label
    if wanted.seconds_each is not None:
        if label not in steps:
            fitted = steps_within(trial, wanted.seconds_each, listener)
            if isinstance(fitted, str):
                listener.ends(trial, fitted)
                return fitted
            steps[label] = fitted
        trial = trial.with_steps(steps[label])
    if _done(trial):
        listener.skips(trial)
        return read_outcome(trial.folder, trial.seed)
    told = call("run" if wanted.timed else "score", trial.recipe, listener.moves)
    if "failed" in told:
        why = reason(told["failed"]["what"], told["failed"]["fix"])
        listener.ends(trial, why)
        return why
    write_json(trial.record, {"key": trial.key})
    outcome = read_outcome(trial.folder, trial.seed)
    listener.ends(trial, outcome)
    return outcome


def _done(trial: Trial) -> bool:
    if not trial.record.is_file() or not finished(trial.folder):
        return False
    return bool(json.loads(trial.record.read_text(encoding="utf-8")).get("key") == trial.key)


def steps_within(trial: Trial, seconds: float, listener: Listener) -> int | str:
    """How many updates fit into a time, from a short measurement that is kept beside the runs."""
    kept = trial.folder.with_name(f"{trial.variant.slug}-pace.json")
    recipe = {**trial.recipe, "name": f"{trial.variant.slug}-pace"}
    pace_key = key_of(configured(recipe, trial.variant.label), seconds=seconds)
    known = json.loads(kept.read_text(encoding="utf-8")) if kept.is_file() else {}
    if known.get("key") != pace_key:
        listener.moves({"stage": "measuring how long an update takes"})
        told = call("pace", recipe, listener.moves)
        if "pace" not in told:
            failed = told.get("failed", {"what": "no update was made", "fix": ""})
            return reason(failed["what"], failed["fix"])
        known = {"key": pace_key, "seconds_per_update": told["pace"]}
        write_json(kept, known)
    return max(1, int(seconds / known["seconds_per_update"]))
