"""What Burnish uses of Optuna, an optional extra: its store, its pruners, the importance of settings, and the callback.

Shares of a training, in per cent, are the steps at which trials report, so that trials of any length compare.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish.core.errors import UserError
from burnish.core.events import Action, Evaluated, Event, Started, Stepped, Stop

PRUNED = "pruned"
HEARTBEAT, GRACE = 60, 300
"""Seconds between the signs of life of a trial in a database, and after which without one it counts as failed."""
JOURNAL = "journal:///"

PRUNERS: Mapping[str, Callable[[Any], Any]] = {
    "median": lambda optuna: optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=20),
    "halving": lambda optuna: optuna.pruners.SuccessiveHalvingPruner(min_resource=20, reduction_factor=2),
    "none": lambda optuna: optuna.pruners.NopPruner(),
}
"""`median`: ends what is below the median of earlier trials at the same place, from a fifth of a training on (Golovin
et al., 2017). `halving`: asynchronous successive halving (Li et al., 2020), which lets one in two go on at a fifth, two
fifths and four fifths."""


def optuna_module() -> Any:
    """Optuna.

    Raises:
        UserError: It is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError(
            "a search needs Optuna, which is not installed", where="burnish search", fix="pip install 'burnish[search]'"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@contextmanager
def unwarned(optuna: Any) -> Iterator[None]:
    """Without Optuna's notes that a part of it may change its interface."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def sampler_of(seed: int | None) -> Any:
    """The sampler: tree-structured Parzen estimators (Bergstra et al., 2011) that know of conditional settings.

    Trials that run beside a new one count as bad ones, so that processes do not all try the same.
    """
    optuna = optuna_module()
    with unwarned(optuna):
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=8, multivariate=True, group=True, constant_liar=True
        )


def open_storage(url: str) -> Any:
    """The store behind a URL.

    Raises:
        UserError: It cannot be opened.
    """
    optuna = optuna_module()
    fix = f"name one as `sqlite:///search.db`, `postgresql://host/name`, or `{JOURNAL}folder/search.log`"
    try:
        if url.startswith(JOURNAL):
            path = Path(url.removeprefix(JOURNAL))
            path.parent.mkdir(parents=True, exist_ok=True)
            return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
        if "://" not in url:
            raise ValueError("it is no URL")
        with unwarned(optuna):
            return optuna.storages.RDBStorage(url, heartbeat_interval=HEARTBEAT, grace_period=GRACE)
    except Exception as error:  # whatever the database, its driver or the file system say
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"the store cannot be opened: {said}", where=url, fix=fix) from None


class Pruning:
    """Reports every evaluation of a trial to its study, and stops the loop where the pruner says so.

    The loop is asked at its next update, since only then it listens.

    Args:
        trial: Of Optuna; anything with ``report`` and ``should_prune``.
        metric: What is reported.
    """

    def __init__(self, trial: Any, metric: str) -> None:
        self.trial, self.metric = trial, metric
        self.total = 0
        self.values: list[tuple[int, float]] = []
        self.pruned = False

    def __call__(self, event: Event) -> Action | None:
        """An event of the loop."""
        if isinstance(event, Started):
            self.total = event.total_steps
        if isinstance(event, Stepped) and self.pruned:
            return Stop(PRUNED)
        if not isinstance(event, Evaluated) or self.metric not in event.metrics:
            return None
        place = round(100 * event.step / max(1, self.total))
        self.values.append((place, event.metrics[self.metric]))
        self.trial.report(event.metrics[self.metric], place)
        self.pruned = self.pruned or (place < 100 and bool(self.trial.should_prune()))
        return None


def running_trial(url: str, study: str, pruner: str, trial: int) -> Any:
    """A trial of a study that another process has begun, to report to it."""
    optuna = optuna_module()
    loaded = optuna.load_study(study_name=study, storage=open_storage(url), pruner=PRUNERS[pruner](optuna))
    return optuna.trial.Trial(loaded, trial)


def importances(study: Any) -> dict[str, dict[str, float]]:
    """How much each setting matters, by fANOVA (Hutter et al., 2014) over the trials that came to their end.

    ``all`` holds the settings that every trial has; a method's own are weighed among its own trials.
    """
    optuna = optuna_module()
    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    found = {"all": _importance(optuna, study)}
    methods = dict.fromkeys(trial.params["method"] for trial in complete)
    for method in methods if len(methods) > 1 else ():
        part = optuna.create_study(direction=study.direction)
        part.add_trials([trial for trial in complete if trial.params["method"] == method])
        found[method] = _importance(optuna, part)
    return {name: shares for name, shares in found.items() if shares}


FEWEST = 4
"""Trials without which nothing is said of what matters."""


def _importance(optuna: Any, study: Any) -> dict[str, float]:
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(trials) < FEWEST or len({trial.value for trial in trials}) < 2:
        return {}
    varied = [
        name
        for name in set.intersection(*(set(trial.params) for trial in trials))
        if len({str(trial.params[name]) for trial in trials}) > 1
    ]
    if not varied:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator, params=varied))
