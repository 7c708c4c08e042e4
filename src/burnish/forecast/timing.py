"""How long a run will take here: a few of its own updates and evaluations, timed for half a minute at most.

An update takes ``fixed + each * operations``: the arithmetic of `forecast.work`, linear in tokens and quadratic in the
rows' lengths, and what does not depend on it, such as AdamW's step. One checkpoint is written into a temporary folder,
to know what that takes. Nothing of it is kept, and the process's weights are thrown away.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from burnish.checkpoint.optimizer import state_tensors
from burnish.checkpoint.store import Checkpoint, CheckpointStore
from burnish.core.events import Event, Stage
from burnish.evaluate.loss import RowLosses
from burnish.evaluate.retention.score import listen
from burnish.evaluate.run import Evaluation, Split, compare
from burnish.forecast.finding import Foresight
from burnish.forecast.sketch import Sketch, sketched
from burnish.forecast.work import operations, places, work_of
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.job import Job
from burnish.train.liveness import Liveness
from burnish.train.loop import update
from burnish.train.rehearsal import rehearse
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from burnish.train.state import TrainState
from burnish.train.updates import Updates
from burnish.train.verify import in_fresh_process

SECONDS = 30.0
"""What a calibration may take, loading left out."""

RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class TimePlan:
    """Where the time of a run goes, in seconds.

    Attributes:
        parts: By what takes it.
        updates: Updates of the run.
        seconds_per_update: Of one, on average.
        spent: What the calibration took.
        energy: Joules of the whole run, where the processor has a counter.
        price: Of an hour, where it is known.
    """

    parts: dict[str, float]
    updates: int
    seconds_per_update: float
    spent: float
    energy: float | None = None
    price: float | None = None

    @property
    def total(self) -> float:
        """Of the whole run."""
        return sum(self.parts.values())

    @property
    def cost(self) -> float | None:
        """Of the whole run, in the unit of the price."""
        return None if self.price is None else self.total / 3600 * self.price

    def to_json(self) -> dict[str, Any]:
        """For `plan.json`."""
        return {"seconds": self.total, "parts": self.parts, "updates": self.updates, "energy_joules": self.energy,
                "seconds_per_update": self.seconds_per_update, "calibration_seconds": self.spent,
                "cost": self.cost}  # fmt: skip


class Clock:
    """Hears of the stages of a run's beginning, and notes when the last one began."""

    def __init__(self) -> None:
        self.began = self.stage = time.perf_counter()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stage):
            self.stage = time.perf_counter()


def since_start() -> float:
    """Seconds since this process began."""
    return time.time() - psutil.Process().create_time()


def calibrate(
    config: RunConfig, *, seconds: float = SECONDS, price: float | None = None, started: float | None = None
) -> TimePlan:
    """Time a recipe's own updates and evaluations for a while, and add up what its run will take.

    Args:
        config: The recipe.
        seconds: How long, loading left out.
        price: Of an hour.
        started: Seconds from the beginning of this process to its own work; until now if it is not known.

    Raises:
        UserError: As for a run.
    """
    started = since_start() if started is None else started
    clock = Clock()
    setup = set_up(config, [clock], Foresight())  # a run plans its memory too
    energy, began = joules(), time.perf_counter()
    loading, weights = began - clock.began, began - clock.stage  # weights are the last stage
    scorer = Scorer(setup, []).ready()
    job = make_job(setup, scorer, RunFolder(setup.config.folder))
    rehearse(job)
    rehearsal, fresh = time.perf_counter() - began, fresh_process_seconds()
    sketch = sketched(setup.config, setup.prepared)
    evaluations, scored = _evaluations(scorer, seconds / 4)
    fresh_samples = _sample_seconds(scorer)  # the untouched model writes other answers than one that was trained
    fixed, each = _updates(job, setup.task_updates, sketch, seconds - (time.perf_counter() - began))
    spent = time.perf_counter() - began
    used = joules()
    work = work_of(sketch)
    training = fixed * work.updates + each * work.operations
    parts = {"starting": started, "reading and loading": loading, "rehearsal": rehearsal, "updates": training}
    parts |= _around(setup, scorer, evaluations) | retention_seconds(setup, scorer) | saving_seconds(job, setup)
    if fresh_samples:
        parts["samples"] = fresh_samples + _sample_seconds(scorer)
    parts |= {"reading back": fresh + weights} | interval_seconds(scorer, scored)
    watts = (used - energy) / spent if used is not None and energy is not None else None
    total = sum(parts.values())
    return TimePlan(parts, work.updates, training / work.updates, spent, watts and watts * total, price)


def _updates(job: Job, rows: Updates, sketch: Sketch, seconds: float) -> tuple[float, float]:
    """Seconds of an update that do not depend on its rows, and seconds for each operation on those of the task."""
    state, total = TrainState(), len(job.updates)
    liveness = Liveness((), 0)
    job.stages.enter(0, job.trainable, job.optimizer)
    job.model.train()
    chosen = np.random.default_rng(0).permutation(total)[:64]
    points: list[tuple[float, float]] = []
    began = time.perf_counter()
    for number, step in enumerate(chosen):
        state.step = int(step)
        cost = sum(
            operations(sketch, *places(rows.lengths[numbers], rows.layout == "packed"))
            for numbers in rows.cut(state.step)
        )
        stamp = time.perf_counter()
        update(job, state, liveness)
        points.append((cost, time.perf_counter() - stamp))
        # the first update also makes the optimiser's state and prepares products
        if time.perf_counter() - began > seconds and number:
            break
    return line_through(points[1:] if len(points) > 2 else points)


def line_through(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """``(a, b)`` of ``seconds = a + b * operations``, neither below zero; the ratio alone where points are alike."""
    x, y = np.array(points, dtype=float).T
    if len(points) >= 6 and x.std() > 0.05 * x.mean():
        b, a = np.polyfit(x, y, 1)
        if a >= 0 and b > 0:
            return float(a), float(b)
    return 0.0, float(y.sum() / x.sum())


def _evaluations(scorer: Scorer, seconds: float) -> tuple[float, Evaluation]:
    """Seconds that a place of an evaluation takes, from as many rows as the time allows; and the last evaluation."""
    whole, config = scorer.validation_split, scorer.setup.config.evaluate
    scorer.setup.loaded.model.eval()
    count, spent, tokens = min(len(whole.table), 16), 0.0, 1
    while True:
        part = Split.make(whole.name, whole.table.head(count), list(whole.examples[:count]), config, scorer.renderer)
        began = time.perf_counter()
        scored = scorer._evaluate(part, quiet=True)
        spent, tokens = time.perf_counter() - began, max(1, part.table.n_tokens)
        if count == len(whole.table) or spent * 4 > seconds:
            return spent / tokens, scored
        count = min(len(whole.table), 4 * count)


def _around(setup: Setup, scorer: Scorer, each: float) -> dict[str, float]:
    """Seconds of everything but the updates."""
    held_out, validation = scorer.held_out.table.n_tokens, scorer.validation_split.table.n_tokens
    between = evaluations_of(setup)
    return {"scoring base and tuned": 2 * each * held_out, "validation": between * each * validation}


def _sample_seconds(scorer: Scorer) -> float:
    """Seconds of writing answers to a few rows with the model as it is; 0 where a run writes none."""
    if not scorer.setup.config.evaluate.samples or scorer.setup.loaded.classifier is not None:
        return 0.0
    began = time.perf_counter()
    scorer.samples()
    return time.perf_counter() - began


def interval_seconds(scorer: Scorer, scored: Evaluation) -> dict[str, float]:
    """Seconds of the intervals of base, tuned and their difference, which rows and classes decide.

    Rows that were scored stand for all: they are repeated until there are as many as the run has.

    Args:
        scorer: Of the run.
        scored: Some of its rows.
    """
    if not scored.classified:
        return {}
    chosen = np.arange(scorer.held_out.questions) % len(scored.scores)
    losses = RowLosses(scored.losses.totals[chosen], scored.losses.counts[chosen])
    many = replace(scored, losses=losses, scores=scored.scores[chosen], truth=scored.truth[chosen])
    began = time.perf_counter()
    many.to_json()
    one = time.perf_counter()
    compare(many, many)
    return {"intervals": 2 * (one - began) + time.perf_counter() - one}


def retention_seconds(setup: Setup, scorer: Scorer) -> dict[str, float]:
    """Seconds of scoring what the model knows: before, after, and a few texts at evaluations.

    The texts that are scored at evaluations are timed, with the layers; the rest follows by its tokens.
    """
    kept = scorer.retention
    if not kept.config.on or not len(kept.rows.texts):
        return {}
    part, _ = kept.part
    began = time.perf_counter()
    listen(scorer.view, part)
    each = (time.perf_counter() - began) / max(1, part.n_tokens)
    evaluations = evaluations_of(setup)
    updates = kept.config.every_steps
    times = (
        len(setup.updates) // updates
        if updates
        else evaluations // kept.every_evaluations
        if kept.every_evaluations
        else 0
    )
    return {
        "retention, before and after": 2 * each * kept.rows.n_tokens,
        **({"retention while training": times * each * part.n_tokens} if times else {}),
    }


def fresh_process_seconds() -> float:
    """Seconds until a fresh process is ready to read a run back, as one does in the end."""
    began = time.perf_counter()
    in_fresh_process("-c", "import burnish.train.verify").check_returncode()
    return time.perf_counter() - began


def saving_seconds(job: Job, setup: Setup) -> dict[str, float]:
    """Seconds of writing checkpoints and what is handed over, from one that is written and thrown away."""
    with tempfile.TemporaryDirectory(prefix="burnish-plan-") as place:
        store = CheckpointStore(Path(place))
        tensors = {"trainable": dict(job.trainable), "optimizer": state_tensors(job.optimizer, job.trainable)}
        began = time.perf_counter()
        store.save(Checkpoint(step=1, tensors=tensors, state={}))
        each = time.perf_counter() - began
        size = sum(file.stat().st_size for file in Path(place).rglob("*") if file.is_file())
    final = sum(p.numel() * p.element_size() for _, p in job.trainable)
    return {"checkpoints": saves_of(setup) * each, "writing what is handed over": each * final / max(1, size)}


def evaluations_of(setup: Setup) -> int:
    """Evaluations of a run: every so many updates, and at the end."""
    return -(-len(setup.updates) // setup.evaluate_every)


def saves_of(setup: Setup) -> int:
    """Checkpoints of a run that finds no better weights between those that are due, and at the end."""
    return -(-len(setup.updates) // (setup.config.checkpoint.every_steps or setup.evaluate_every))


def joules() -> float | None:
    """What the processors' energy counters have counted, where they can be read (RAPL)."""
    try:
        files = list(RAPL.glob("intel-rapl:?/energy_uj"))
        return sum(int(path.read_text(encoding="ascii")) for path in files) / 1e6 if files else None
    except (OSError, ValueError):
        return None
