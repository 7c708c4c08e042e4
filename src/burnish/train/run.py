"""A run from recipe to hand-over: check, score the base, train, score the tuned, save."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.adapters import training
from burnish.checkpoint.store import Checkpoint, CheckpointStore
from burnish.core.errors import TrainingStopped, UserError
from burnish.core.events import Callback, Evaluated, Event, Measured, Noticed, Retained, Stage, Stepped
from burnish.core.types import Batch
from burnish.evaluate.run import Evaluation
from burnish.train.config import RunConfig
from burnish.train.contention import Contention
from burnish.train.diagnosis import Diagnosis
from burnish.train.distributed.engine import Engine
from burnish.train.distributed.table import open_engine
from burnish.train.ema import Ema
from burnish.train.folder import ReadOnlyFolder, RunFolder, open_run
from burnish.train.gradients import GradientWatch
from burnish.train.handover import hand_over, load_handed_over, read_recipe
from burnish.train.job import Cadence, Job
from burnish.train.loop import tell, to_device, train
from burnish.train.rehearsal import rehearse
from burnish.train.restoring import gathered, load_trainable, restore, trained_now
from burnish.train.score import Scorer, store_base, stored_base
from burnish.train.setup import Foresee, Setup, set_up
from burnish.train.state import TrainState
from burnish.train.stopped import keep_stopped
from burnish.train.trackers import TrackerCallback, refuse_missing
from burnish.train.verify import read_back, refuse_faults, write_probe


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: The run folder.
        reason: Why training ended: ``completed``, ``early-stopping`` or ``interrupted``.
        step: Updates done.
        best_step: The update whose weights were handed over.
        base: Metrics of the base model on the held-out rows, by name.
        tuned: Metrics of the tuned model on the same rows.
    """

    folder: Path
    reason: str
    step: int
    best_step: int | None
    base: dict[str, float]
    tuned: dict[str, float]

    @property
    def report(self) -> Path:
        """The page of the run."""
        return RunFolder(self.folder).report

    def load(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The tuned model, ready to generate, and its tokenizer."""
        loaded = load_handed_over(self.folder)
        return loaded.model, loaded.tokenizer

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "folder": str(self.folder),
            "reason": self.reason,
            "step": self.step,
            "best_step": self.best_step,
            "base": self.base,
            "tuned": self.tuned,
            "report": str(self.report),
        }


def start_run(
    config: RunConfig,
    *,
    force: bool = False,
    callbacks: Sequence[Callback] = (),
    foresee: Foresee = lambda config, prepared: [],
    plan: Callable[[], Mapping[str, Any]] = dict,
) -> RunResult:
    """Run a recipe in a new folder. Nothing is written before recipe, data and model have been accepted.

    Args:
        config: The recipe.
        force: Whether a run of this name is replaced.
        callbacks: Told of every event.
        foresee: Asked between the data and the weights what there is to say.
        plan: The contents of `plan.json`, asked before the first update; an empty one is not written.
    """
    engine = open_engine(config)
    main, callbacks = engine.group.on_main, callbacks if engine.group.main else ()
    folder = folder_of(config.folder, engine)
    main(lambda: folder.refuse_if_taken(force))
    refuse_missing(config.trackers)
    setup = set_up(config, callbacks, foresee, engine)
    scorer = Scorer(setup, callbacks).ready()
    job = make_job(setup, scorer, folder)
    if engine.rehearses:
        tell(callbacks, Stage("rehearsing the heaviest micro-batch"))
        rehearse(job)
    main(lambda: folder.create(force, setup.write))
    if planned := engine.group.of_main(dict(plan())):  # only the main process has planned
        main(lambda: folder.write("plan.json", planned))
    return _run(job, scorer, folder, callbacks, TrainState(), None)


def resume_run(path: Path, *, callbacks: Sequence[Callback] = ()) -> RunResult:
    """Continue a run from its newest whole checkpoint.

    Raises:
        UserError: There is no run, it is complete, or its data or model is no longer what it was.
    """
    folder = open_run(path)
    if folder.read("evaluation.json"):
        raise UserError("this run is complete", where=str(path), fix="start a new one with another `name=`")
    recipe = read_recipe(folder)
    engine = open_engine(recipe)
    callbacks = callbacks if engine.group.main else ()
    folder = folder_of(folder.path, engine)
    setup = set_up(recipe, callbacks, engine=engine)
    setup.refuse_changes(folder)
    checkpoint, findings = CheckpointStore(folder.checkpoints).latest()
    for finding in findings:
        tell(callbacks, Noticed(finding))
    folder.note(findings)
    state = TrainState.from_json(checkpoint.state["train"]) if checkpoint else TrainState()
    if checkpoint and state.step != checkpoint.step:
        raise UserError(
            f"the checkpoint of update {checkpoint.step} says that {state.step} were done: rows would be replayed",
            where=str(folder.checkpoints),
            fix="remove this checkpoint to resume from the one before it",
        )
    engine.group.on_main(lambda: folder.cut_log(state.step))
    scorer = Scorer(setup, callbacks).ready()
    return _run(make_job(setup, scorer, folder), scorer, folder, callbacks, state, checkpoint)


def _run(
    job: Job,
    scorer: Scorer,
    folder: RunFolder,
    callbacks: Sequence[Callback],
    state: TrainState,
    checkpoint: Checkpoint | None,
) -> RunResult:
    began, setup, engine = time.monotonic(), scorer.setup, job.engine
    base, base_samples = engine.look(partial(score_base, scorer, folder))
    scorer.retention.before(folder)
    store = store_of(setup, folder)
    if checkpoint:
        restore(job, checkpoint)
    try:
        state = train(job, state, listeners(scorer, folder, callbacks, state))
    except TrainingStopped as stop:
        folder.log({"kind": "stopped", "step": state.step, "reason": stop.what, "where": stop.where, "fix": stop.fix})
        raise
    if state.reason == "interrupted":
        folder.log({"kind": "stopped", "step": state.step, "reason": state.reason})
        return RunResult(folder.path, state.reason, state.step, state.best_step, base.values(), {})
    folder.write("best.json", restore_best(job, store, state))
    engine.release()
    engine.inventory(dict(trained_now(setup)))
    scorer.settle_head(folder)
    engine.group.on_main(partial(write_result, scorer, folder, callbacks))
    tuned, samples = scorer.tuned(), scorer.samples()
    scorer.retention.after(folder)
    peaks = [peak for (peak,) in engine.group.table([peak_memory()])]
    folder.log(ending(state, time.monotonic() - began, int(max(peaks))))
    engine.group.on_main(partial(scorer.write, folder, base, tuned, (base_samples, samples)))
    return RunResult(folder.path, state.reason, state.step, state.best_step, base.values(), tuned.values())


def write_result(scorer: Scorer, folder: RunFolder, callbacks: Sequence[Callback]) -> None:
    """Write what is handed over, and hold the files against the model in memory."""
    setup = scorer.setup
    tell(callbacks, Stage("writing what is handed over"))
    hand_over(setup, folder)
    write_probe(setup.loaded, scorer.probe_rows(), folder)
    tell(callbacks, Stage("reading it back in a fresh process"))
    refuse_faults(read_back(folder.path), folder.path)


def folder_of(path: Path, engine: Engine) -> RunFolder:
    """The run's folder; only the main process writes."""
    return RunFolder(path) if engine.group.main else ReadOnlyFolder(path)


def score_base(scorer: Scorer, folder: RunFolder) -> tuple[Evaluation, list[str]]:
    """The base model's scores and samples: made before the first update, read back when a run is resumed.

    The model may hold a restored adapter only after this; a fresh one changes nothing yet.
    """
    known = stored_base(folder, scorer.held_out, scorer)
    if scorer.setup.engine.group.of_main(known is not None) and known:
        return known
    base, samples = scorer.base(), scorer.samples()
    store_base(folder, base, samples)
    return base, samples


def listeners(scorer: Scorer, folder: RunFolder, callbacks: Sequence[Callback], state: TrainState) -> list[Callback]:
    """Everyone who hears of the run's events; beside the main process only who calls the model."""
    config = scorer.setup.config
    if not scorer.setup.engine.group.main:
        return [scorer.retention.listener(())]
    heard: list[Callback] = [Recorder(folder), *callbacks]
    if config.trackers:
        heard.append(TrackerCallback(config.trackers, folder.path, config.model_dump(mode="json")))
    watching: list[Callback] = [Diagnosis(folder, state, config.early_stopping.on_finding, callbacks)]
    if scorer.setup.device.type == "cpu" and scorer.setup.engine.group.size == 1:
        watching.append(Contention(folder, callbacks))
    return [*heard, scorer.retention.listener(heard), *watching]


def ending(state: TrainState, seconds: float, peak: int) -> dict[str, Any]:
    """The last line of the log; ``peak`` is that of the process that held most."""
    return {
        "kind": "finished",
        "step": state.step,
        "reason": state.reason,
        "seconds": seconds,
        "training_seconds": state.seconds,
        "tokens": state.tokens,
        "trained_tokens": state.trained_tokens,
        "skipped_steps": state.skipped_steps,
        "peak_memory_bytes": peak,
    }


def store_of(setup: Setup, folder: RunFolder) -> CheckpointStore:
    """The checkpoints of a run."""
    return CheckpointStore(folder.checkpoints, setup.config.checkpoint.keep)


def make_job(setup: Setup, scorer: Scorer, folder: RunFolder) -> Job:
    """Put together what the loop needs."""
    config, store, engine = setup.config, store_of(setup, folder), setup.engine
    optimizer = engine.optimizing(setup.optimizer(), setup.trainable)
    scaler = torch.amp.GradScaler(setup.device.type) if setup.precision.scale_loss else None
    ema = Ema(config.checkpoint.ema, setup.trainable) if config.checkpoint.ema else None
    buffers = [*training.buffers(setup.attached), *(ema.buffers if ema else ())]

    def save(state: TrainState) -> Path:
        sharded = config.checkpoint.sharded and engine.group.size > 1
        tensors = gathered(engine, optimizer, setup.trainable, buffers, sharded)
        saved: dict[str, Any] = {"train": state.to_json()}
        if scaler:
            saved["scaler"] = scaler.state_dict()
        checkpoint = Checkpoint(step=state.step, tensors=tensors, state=saved)
        if sharded:
            return store.save_together(checkpoint, engine.group, protect=state.best_step)
        engine.group.on_main(lambda: store.save(checkpoint, protect=state.best_step))
        return store.path(state.step)

    def keep(state: TrainState, batches: Sequence[Batch], stop: TrainingStopped) -> None:
        weights = [(name, engine.whole(parameter).cpu()) for name, parameter in setup.trainable]
        everyones = engine.group.collected([to_device(batch, torch.device("cpu")) for batch in batches])
        engine.group.on_main(lambda: keep_stopped(folder, weights, state, everyones, stop))

    def observe(step: int) -> None:
        training.observe(setup.attached, step, total_steps=len(setup.updates))
        if ema:
            ema.observe(step)

    def validation() -> dict[str, float]:
        with ema.in_place() if ema and ema.config.hand_over else nullcontext():
            return engine.look(scorer.validation)

    return Job(
        model=setup.loaded.model,
        terms=setup.terms,
        updates=setup.updates,
        optimizer=optimizer,
        stages=setup.stages,
        watched=setup.watched,
        trainable=setup.trainable,
        context=setup.context,
        precision=setup.precision,
        evaluate=validation,
        save=save,
        keep=keep,
        keeping=setup.keeping,
        scaler=scaler,
        max_grad_norm=config.train.max_grad_norm,
        seed=config.seed,
        observe=observe,
        buffers=buffers,
        further=setup.regularizing.further,
        averages=ema.put_ if ema and ema.config.hand_over else None,
        watch=GradientWatch(setup.trainable, optimizer, len(setup.updates), engine) if watches(engine) else None,
        engine=engine,
        cadence=Cadence(
            evaluate_every=setup.evaluate_every,
            save_every=config.checkpoint.every_steps or setup.evaluate_every,
            metric=config.early_stopping.metric,
            min_improvement=config.early_stopping.min_improvement,
            patience=config.early_stopping.patience,
        ),
    )


def watches(engine: Engine) -> bool:
    """Whether this process measures gradients: the main one, and all where each holds a share of them."""
    return engine.foresees and (engine.sharded or engine.group.main)


def restore_best(job: Job, store: CheckpointStore, state: TrainState) -> dict[str, Any]:
    """Go back to the best checkpoint's weights, or their average, so that they are what the run hands over."""
    best = state.best_step if state.best_step is not None else state.step
    if best != state.step:
        load_trainable(job, store.load(best))
    if job.averages is not None:
        job.averages()
    path = store.path(best)
    return {"step": best, "metric": job.cadence.metric, "value": state.best_value, "checkpoint": path.name}


class Recorder:
    """Writes the metrics of a run to its ``metrics.jsonl``."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self.folder.log({"kind": "train", "step": event.step, "epoch": event.epoch, **event.metrics})
        elif isinstance(event, Measured):
            self.folder.log({"kind": "gradients", "step": event.step, **event.values})
        elif isinstance(event, Evaluated):
            line = {"kind": "validation", "step": event.step, "epoch": event.epoch}
            self.folder.log({**line, **event.metrics, "improved": event.improved})
        elif isinstance(event, Retained):
            self.folder.log({"kind": "retention", "step": event.step, "epoch": event.epoch, **event.metrics})


def peak_memory() -> int:
    """The most memory that this process has held, in bytes (the GPU's, where one is used)."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
