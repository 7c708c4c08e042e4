"""A trial in stretches: trained to a share of its updates, scored on the validation rows, and continued later.

The learning rate follows the schedule of the whole training, so that a pause changes nothing but one more look at the
validation rows. The test rows are never scored here.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from burnish.checkpoint.store import CheckpointStore
from burnish.compare.outcome import scored_of
from burnish.compare.statistics import Scored
from burnish.core.events import Action, Callback, Evaluate, Evaluated, Event, Stepped, Stop
from burnish.evaluate.run import Evaluation
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder, is_run
from burnish.train.job import Job
from burnish.train.loop import train
from burnish.train.run import Recorder, make_job, restore
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from burnish.train.state import TrainState

PAUSED = "paused"
BEST = "best-rows.json"


@dataclass(frozen=True)
class Stand:
    """Where a trial stands after a stretch.

    Attributes:
        step: Updates done.
        total: Updates of the whole training.
        batch_size: Rows of an update.
        ended: Whether it has come to its end.
        scored: The validation rows at its best evaluation so far, whose weights a run would hand over.
    """

    step: int
    total: int
    batch_size: int
    ended: bool
    scored: Scored

    @property
    def rows(self) -> int:
        """Rows trained on, repeats counted."""
        return self.step * self.batch_size

    def to_json(self) -> dict[str, Any]:
        """For the trial's folder."""
        return {**asdict(self), "scored": scored_json(self.scored)}

    @classmethod
    def read(cls, values: dict[str, Any]) -> Stand:
        """What ``to_json`` wrote."""
        return cls(**{**values, "scored": read_scored(values["scored"])})


def scored_json(scored: Scored) -> dict[str, Any]:
    """Rows as JSON."""
    arrays = {name: value.tolist() for name, value in vars(scored).items() if isinstance(value, np.ndarray)}
    return {"ids": list(scored.ids), "classes": scored.classes, **arrays}


def read_scored(values: dict[str, Any]) -> Scored:
    """What ``scored_json`` wrote."""
    return Scored(
        tuple(values["ids"]),
        np.asarray(values["losses"], dtype=np.float64),
        np.asarray(values["counts"], dtype=np.float64),
        np.asarray(values["true"], dtype=np.int64),
        np.asarray(values["predicted"], dtype=np.int64),
        int(values["classes"]),
    )


def stand_file(share: float) -> str:
    """Name of the file of where a trial stood after a share of its updates."""
    return f"stand-{share:.6f}.json"


def race(config: RunConfig, until: float, *, fresh: bool, heard: Callback, least_rows: int = 0) -> Stand | None:
    """Train a recipe up to a share of its updates, from where it stopped before; None after Ctrl-C.

    Args:
        config: The recipe.
        until: The share, at most 1.
        fresh: Whether what its folder holds is of no use.
        heard: Told of the loop's events.
        least_rows: Rows that are trained on at least, as far as half of the updates suffice for them.

    Raises:
        UserError: The recipe is refused, or its rows are no longer what they were.
    """
    folder = RunFolder(config.folder)
    going_on = is_run(folder.path) and not fresh
    setup = set_up(config, [heard])
    scorer = Remembering(setup, [heard])
    scorer.ready()
    job = make_job(setup, scorer, folder)
    state = _continued(setup, job, folder) if going_on else TrainState()
    if not going_on:
        folder.create(True, setup.write)
    total = len(job.updates)
    end = stop_at(total, config.train.batch_size, until, least_rows)
    if state.step < end or not (folder.path / BEST).is_file():
        pauses: list[Callback] = [] if end == total else [_At(end, Evaluate()), _At(end, Stop(PAUSED))]
        state = train(job, state, [Recorder(folder), _Best(scorer, folder), heard, *pauses])
        if state.reason == "interrupted":
            return None
    ended = state.reason not in ("", PAUSED)
    stand = Stand(state.step, total, config.train.batch_size, ended, read_scored(folder.read(BEST)))
    folder.write(stand_file(until), stand.to_json())
    if ended:
        shutil.rmtree(folder.checkpoints, ignore_errors=True)  # they can be several models large
    return stand


def stop_at(total: int, batch_size: int, share: float, least_rows: int = 0) -> int:
    """The update behind which a stretch ends: a share of all, or so many rows if that is more, but not beyond half."""
    least = min(math.ceil(least_rows / batch_size), math.ceil(total / 2))
    return min(total, max(1, math.ceil(share * total - 1e-9), least))


@dataclass
class Remembering(Scorer):
    """A scorer that keeps what it saw last of the validation rows."""

    last: Evaluation | None = None

    def validated(self) -> Evaluation:
        """The model as it is now on the validation rows, row by row."""
        self.last = super().validated()
        return self.last


class _Best:
    """Keeps the rows of the best evaluation, and of the first where none is finite."""

    def __init__(self, scorer: Remembering, folder: RunFolder) -> None:
        self.scorer, self.folder = scorer, folder

    def __call__(self, event: Event) -> Action | None:
        if isinstance(event, Evaluated) and (event.improved or not (self.folder.path / BEST).is_file()):
            assert self.scorer.last is not None
            self.folder.write(BEST, scored_json(scored_of(self.scorer.validation_split, self.scorer.last)))
        return None


class _At:
    """Asks for something once so many updates are done."""

    def __init__(self, step: int, action: Action) -> None:
        self.step, self.action = step, action

    def __call__(self, event: Event) -> Action | None:
        return self.action if isinstance(event, Stepped) and event.step >= self.step else None


def _continued(setup: Setup, job: Job, folder: RunFolder) -> TrainState:
    """The state of the newest whole checkpoint, with its weights put back; a new one where there is none."""
    setup.refuse_changes(folder)
    checkpoint, _ = CheckpointStore(folder.checkpoints).latest()
    state = TrainState()
    if checkpoint:
        state = TrainState.from_json(checkpoint.state["train"])
        restore(job, checkpoint)
    folder.cut_log(state.step)
    return state
