"""A search over architectures of adapters by Optuna, whose store several processes and machines may share.

Every trial is a training in a process of its own. After each evaluation of the validation rows its metric is reported
to the store, and the pruner may end it there: a callback of the loop answers with ``Stop``. The test rows are not
looked at.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from burnish.compare.architectures import Space
from burnish.compare.basis import better
from burnish.compare.keys import hash_of
from burnish.compare.process import call
from burnish.compare.race import Stand, stand_file
from burnish.compare.recommend import settings_of
from burnish.compare.run import Listener, deciding
from burnish.compare.statistics import METRICS
from burnish.compare.study import PRUNERS, importances, open_storage, optuna_module, sampler_of
from burnish.compare.trials import Wanted, prepare, reason
from burnish.core.errors import UserError
from burnish.core.files import write_atomic, write_json
from burnish.train.config import RunConfig

RESULTS, SETTINGS, STORE = "search.json", "best.yaml", "search.db"
KEY = "burnish.recipe"
WHY = "why"


@dataclass(frozen=True)
class SearchWanted:
    """What is to be searched.

    Attributes:
        config: The recipe.
        space: What is tried.
        output: Folder of the trials of this process's machine.
        trials: How many there are to be in the study, whoever makes them.
        store: Where the study is: a URL of a database, or ``journal:///PATH`` for a file.
        study: Its name.
        pruner: A name in ``study.PRUNERS``.
        seed: Seed of the sampler; None draws one, as several processes need it.
    """

    config: RunConfig
    space: Space
    output: Path
    trials: int
    store: str
    study: str
    pruner: str = "median"
    seed: int | None = None

    @property
    def key(self) -> str:
        """A hash of recipe and space: trials of others are not comparable. Machines may keep the files elsewhere."""
        recipe = self.config.model_dump(mode="json")
        return hash_of(_unplaced({**recipe, "output": None, "name": None, "space": vars(self.space)}))


def _unplaced(value: Any) -> Any:
    """Values with the names of files in the place of their absolute paths."""
    if isinstance(value, Mapping):
        return {key: _unplaced(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_unplaced(inner) for inner in value]
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


@dataclass(frozen=True)
class Searched:
    """The search so far.

    Attributes:
        metric: What decides.
        trials: Every trial of the study: number, state, value, settings, updates, why it failed.
        importance: Share of each setting that all trials have, and of those of one method among its own trials.
        best: Number of the best one; None without any.
        overrides: Its settings, to lay over the recipe.
        about: What was searched.
    """

    metric: str
    trials: tuple[dict[str, Any], ...]
    importance: dict[str, dict[str, float]]
    best: int | None = None
    overrides: dict[str, Any] = field(default_factory=dict)
    about: dict[str, Any] = field(default_factory=dict)

    def ranked(self) -> list[dict[str, Any]]:
        """Trials that came to their end, the best first; then the pruned ones; then those that failed."""
        order = {"complete": 0, "pruned": 1}
        sign = -better(self.metric)
        return sorted(
            self.trials, key=lambda t: (order.get(t["state"], 2), sign * (t["value"] if t["value"] is not None else 0))
        )

    def to_json(self) -> dict[str, Any]:
        """For ``search.json``."""
        best = {"number": self.best, "settings": self.overrides} if self.best is not None else None
        return {
            "about": self.about,
            "metric": self.metric,
            "split": "validation",
            "best": best,
            "importance": self.importance,
            "trials": self.ranked(),
        }


def search(wanted: SearchWanted, listener: Listener | None = None) -> Searched:
    """Run trials until the study has as many as are wanted; the files are written after each.

    Raises:
        UserError: Optuna is not installed, the store cannot be opened, or it holds the study of another recipe; the
            recipe does not suit a search.
    """
    if wanted.config.stages:
        raise UserError(
            "the recipe has stages, each of which trains methods that are named there",
            where="stages",
            fix="search with `stages=[]` and a `train.num_epochs`",
        )
    study = open_study(wanted)
    listener = listener or Listener()
    optuna = optuna_module()
    states = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED, optuna.trial.TrialState.FAIL)
    write(wanted, study)
    if len(study.get_trials(deepcopy=False, states=states)) < wanted.trials:
        study.optimize(
            objective(wanted, listener),
            catch=(TrialFailed,),
            callbacks=[
                optuna.study.MaxTrialsCallback(wanted.trials, states=states),
                lambda study, trial: write(wanted, study),  # type: ignore[list-item]
            ],
        )
    return write(wanted, study)


class TrialFailed(Exception):
    """A trial that came to no end; the reason is kept with it."""


def open_study(wanted: SearchWanted) -> Any:
    """The study of a recipe, or a new one.

    Raises:
        UserError: As ``search`` says.
    """
    optuna = optuna_module()
    if wanted.store == default_store(wanted.output):
        wanted.output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=open_storage(wanted.store),
        study_name=wanted.study,
        sampler=sampler_of(wanted.seed),
        pruner=PRUNERS[wanted.pruner](optuna),
        direction="maximize" if METRICS[metric_of(wanted.config)][1] else "minimize",
        load_if_exists=True,
    )
    known = study.user_attrs.get(KEY)
    if known is None:
        study.set_user_attr(KEY, wanted.key)
    elif known != wanted.key:
        raise UserError(
            f"the store holds a study `{wanted.study}` of another recipe, or of other settings or methods",
            where=wanted.store,
            fix="name another study with `--study`, or another store",
        )
    return study


def default_store(output: Path) -> str:
    """The store beside the trials."""
    return f"sqlite:///{output / STORE}"


def metric_of(config: RunConfig) -> str:
    """The metric that decides; the loss where the task has none of ``METRICS``."""
    wanted = deciding(config)
    known = {"accuracy", "macro_f1"} if config.evaluate.choices else set(config.task.metrics)
    return wanted if wanted in METRICS and wanted in known else "loss"


def objective(wanted: SearchWanted, listener: Listener) -> Callable[[Any], float]:
    """What Optuna calls with each trial."""
    optuna = optuna_module()

    def value_of(trial: Any) -> float:
        variant = wanted.space.variant(trial, f"trial-{trial.number}")
        made = prepare(Wanted(wanted.config, [variant], 1, wanted.output, timed=False))[0]
        if made.refused:
            trial.set_user_attr(WHY, made.refused)
            raise TrialFailed(made.refused)
        run = made.trials[0]
        listener.begins(trial.number, max(wanted.trials, trial.number + 1), run)
        try:
            told = call(
                "searched",
                run.recipe,
                listener.moves,
                store=wanted.store,
                study=wanted.study,
                pruner=wanted.pruner,
                trial=trial._trial_id,
                metric=metric_of(wanted.config),
            )
        except KeyboardInterrupt:
            trial.set_user_attr(WHY, "interrupted")
            trial.study.tell(trial, state=optuna.trial.TrialState.FAIL)
            raise
        if "failed" in told:
            why = reason(told["failed"]["what"], told["failed"]["fix"])
            trial.set_user_attr(WHY, why)
            listener.ends(run, why)
            raise TrialFailed(why)
        stand = Stand.read(json.loads((run.folder / stand_file(1.0)).read_text(encoding="utf-8")))
        listener.ends(run, stand)
        trial.set_user_attr("updates", stand.step)
        if told.get("pruned"):
            raise optuna.TrialPruned
        return float(told["value"])

    return value_of


def write(wanted: SearchWanted, study: Any) -> Searched:
    """The search so far, and its files."""
    found = gathered(wanted, study)
    write_json(wanted.output / RESULTS, found.to_json())
    if found.best is not None:
        write_atomic(wanted.output / SETTINGS, yaml.safe_dump(found.overrides, sort_keys=False, allow_unicode=True))
    return found


def gathered(wanted: SearchWanted, study: Any) -> Searched:
    """Everything that the store knows."""
    optuna = optuna_module()
    trials = study.get_trials(deepcopy=False)
    complete = [t for t in trials if t.state == optuna.trial.TrialState.COMPLETE]
    best = study.best_trial if complete else None
    chosen = wanted.space.variant(Fixed(best.params), f"trial-{best.number}") if best else None
    return Searched(
        metric_of(wanted.config),
        tuple(_told(trial) for trial in trials),
        importances(study),
        best.number if best else None,
        settings_of(wanted.config, chosen) if chosen else {},
        {
            "recipe": wanted.config.name,
            "model": wanted.config.model.path,
            "store": wanted.store,
            "study": wanted.study,
            "pruner": wanted.pruner,
            "methods": list(wanted.space.methods),
        },
    )


def _told(trial: Any) -> dict[str, Any]:
    last = max(trial.intermediate_values, default=None)
    value = trial.value if trial.value is not None else trial.intermediate_values.get(last)
    return {
        "number": trial.number,
        "state": trial.state.name.lower(),
        "value": value,
        "settings": dict(trial.params),
        "updates": trial.user_attrs.get("updates"),
        "why": trial.user_attrs.get(WHY, ""),
    }


@dataclass(frozen=True)
class Fixed:
    """Chooses what was chosen before."""

    values: Mapping[str, Any]

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """The value."""
        return self.values[name]

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """The value."""
        return float(self.values[name])
