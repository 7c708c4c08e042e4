"""THE loop. Every method, objective and task trains through this file."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from burnish.core.errors import TrainingStopped
from burnish.core.events import (
    Action,
    Callback,
    Evaluate,
    Evaluated,
    Event,
    Finished,
    LowerRate,
    Measured,
    Save,
    Saved,
    Started,
    Stepped,
    Stop,
)
from burnish.core.events import Stage as Beginning
from burnish.core.types import Batch
from burnish.data.replay import SOURCE as REPLAY
from burnish.models.modes import in_evaluation
from burnish.models.route import holding
from burnish.train.counting import count_units, loss_over_all, over_all, seen_in
from burnish.train.distributed.group import Group
from burnish.train.distributed.shares import counted, in_step
from burnish.train.first_update import foresee
from burnish.train.gradients import GradientWatch
from burnish.train.interrupt import Interrupt
from burnish.train.job import Job
from burnish.train.liveness import Liveness, Watched
from burnish.train.state import TrainState

PART = "loss."
"""Put before the name of a term where the log holds its share of the loss."""
APART = 15_485_863
"""Between the seeds of two processes: rows of one update draw masks of their own. A prime."""


def train(job: Job, state: TrainState, callbacks: Sequence[Callback] = ()) -> TrainState:
    """Run updates until the end, early stopping, a callback's word or Ctrl-C; the state is changed in place.

    One update is, over all its micro-batches m and terms t,

        L = sum_t weight_t * (sum_m total_tm) / (sum_m count_tm),

    so the result does not depend on how the update's rows are cut, packed or padded.

    Raises:
        TrainingStopped: A loss or a gradient is not finite (the weights are those before the update), a trained tensor
            stays as it was, or the first update is not the configured one.
    """
    total = len(job.updates)
    tell(callbacks, Started(step=state.step, total_steps=total, total_epochs=job.updates.epoch(total)))
    job.model.train()
    state.reason, saved_step = "", state.step
    liveness, entered = enter_stage(job, state, callbacks), state.step
    asked: Sequence[Action] = []
    with Interrupt() as interrupted:
        while not state.reason:
            asked, came = settled(job.engine.group, asked, interrupted())
            for action in asked:
                if isinstance(action, LowerRate):
                    state.lower(action.factor)
            evaluated = evaluation_due(job, state, asked) and not came
            improved = evaluated and evaluate_now(job, state, callbacks)
            if evaluated:  # it takes its time
                came = settled(job.engine.group, (), interrupted())[1]
            state.reason = reason_to_stop(job, state, asked, came)
            wanted = improved or state.reason or Save() in asked or due(state.step, job.cadence.save_every, total)
            if wanted and (evaluated or state.step != saved_step):
                tell(callbacks, Saved(step=state.step, path=str(job.save(state))))
                saved_step = state.step
            if not state.reason:
                if state.step == job.stages.at(state.step).begin != entered:
                    liveness = enter_stage(job, state, callbacks)
                metrics, measured = update(job, state, liveness)
                state.step += 1
                if measured:
                    tell(callbacks, Measured(step=state.step, values=measured))
                asked = tell(callbacks, Stepped(step=state.step, epoch=job.updates.epoch(state.step), metrics=metrics))
    tell(callbacks, Finished(step=state.step, reason=state.reason))
    return state


def settled(group: Group, asked: Sequence[Action], interrupted: bool) -> tuple[Sequence[Action], bool]:
    """What all processes go by: what the main one's callbacks ask for, and whether any process was interrupted."""
    rows = group.table([float(interrupted), float(len(asked))])
    agreed = group.of_main(asked) if rows[0][1] else ()
    return agreed, any(came for came, _ in rows)


def enter_stage(job: Job, state: TrainState, callbacks: Sequence[Callback]) -> Liveness:
    """Make ready for the stage of the next update; what it trains is watched from its beginning."""
    job.engine.enter_stage(job.stages.at(state.step).names)
    stage = job.stages.enter(state.step, job.trainable, job.optimizer)
    if len(job.stages) > 1:
        number = job.stages.number(state.step) + 1
        tell(
            callbacks,
            Beginning(f"stage {number} of {len(job.stages)}: {stage.label}, {stage.end - stage.begin} updates"),
        )
    trained = [(n, p) for n, p in job.trainable if n in stage.names]
    watched = [one for n, p in trained for one in job.watched.get(n, (Watched(n, p),))]
    return Liveness(watched, stage.end - stage.begin if state.step == stage.begin else 0, job.engine)


def reason_to_stop(job: Job, state: TrainState, asked: Sequence[Action], interrupted: bool) -> str:
    """Why the loop ends before the next update, or the empty string."""
    if interrupted:
        return "interrupted"
    if state.step >= len(job.updates):
        return "completed"
    if job.cadence.patience and state.bad_evaluations >= job.cadence.patience:
        return "early-stopping"
    return next((action.reason for action in asked if isinstance(action, Stop)), "")


def evaluation_due(job: Job, state: TrainState, asked: Sequence[Action]) -> bool:
    """Whether the weights of this step are to be scored and have not been: after a resume they may have been."""
    if job.evaluate is None or state.step == 0 or state.evaluated_step == state.step:
        return False
    return Evaluate() in asked or due(state.step, job.cadence.evaluate_every, len(job.updates))


def update(job: Job, state: TrainState, liveness: Liveness) -> tuple[dict[str, float], dict[str, Any]]:
    """One optimiser update; returns its metrics, and what was measured of its gradients if this is such an update.

    Raises:
        TrainingStopped: The loss or a gradient is not finite, or a tensor does not train.
    """
    began = time.perf_counter()
    rate = job.stages.learning_rate(state.step) * state.rate_factor
    for group in job.optimizer.param_groups:
        group["lr"] = rate * group.get("rate_scale", 1.0)
    group = job.engine.group
    # dropout is a function of seed, step and process, so a resumed run draws the same masks without stored generators
    torch.manual_seed(job.seed * 1_000_003 + state.step + APART * group.rank)
    batches = [to_device(batch, job.device) for batch in passes_of(job, state.step)]
    counts, seen = over_all(group, count_units(job.terms, batches), seen_in(batches))
    parts = dict[str, float]()
    watch = job.watch if job.watch and job.watch.due(state.step) else None
    loss_sum = backward_all(job, batches, counts, parts, watch) + penalize(
        job, batches[0] if batches else Batch(), parts
    )
    try:
        refuse_non_finite_loss(loss_sum, batches, state.step)
        if job.scaler:
            job.scaler.unscale_(job.optimizer)
        norm = job.engine.clip(job.trainable, job.max_grad_norm)
        if not job.scaler:
            refuse_non_finite_gradients(norm, job, batches, state.step)
    except TrainingStopped as stop:
        job.keep(state, [batch for batch in counted(batches) if batch.get("source", REPLAY) == REPLAY], stop)
        raise
    liveness.saw_gradients(tasks_of(job, batches))
    if watch:
        watch.before_update(norm, job.max_grad_norm)
    foreseen = foresee(job.optimizer, job.trainable, rate, job.engine) if job.engine.foresees else None
    made = step_optimizer(job, state)
    if made:
        job.observe(state.step + 1)
    measured = watch.after_update(made) if watch else {}
    job.engine.clear(job.optimizer)
    if made:
        if foreseen:
            foreseen.judge()
        liveness.updated(rate)
    named = {PART + name: value for name, value in parts.items()} if len(job.terms) > 1 else {}
    return measure(state, seen, loss=loss_sum, **named, grad_norm=norm, learning_rate=rate, began=began), measured


def passes_of(job: Job, step: int) -> list[Batch]:
    """The micro-batches of this process in one update."""
    engine, own, further = job.engine, job.updates[step], job.further(step)
    if engine.sharded:
        return in_step(engine.group, own, further, job.updates.samples(step), job.terms)
    return [*own, *further[engine.group.rank :: engine.group.size]]


def tasks_of(job: Job, batches: Sequence[Batch]) -> Sequence[str | None]:
    """The tasks of the update's rows, those of other processes too where parts of the model are for some tasks."""
    tasks = [task for batch in batches for task in batch.get("tasks", ())]
    return job.engine.group.collected(tasks) if job.watched else tasks


def step_optimizer(job: Job, state: TrainState) -> bool:
    """Apply the gradients; False where fp16 loss scaling skipped an overflow."""
    if not job.scaler:
        job.engine.step(job.optimizer)
        return True
    before = job.scaler.get_scale()
    job.scaler.step(job.optimizer)
    job.scaler.update()
    skipped = job.scaler.get_scale() < before
    state.skipped_steps += int(skipped)
    return not skipped


def penalize(job: Job, batch: Batch, parts: dict[str, float] | None = None) -> float:
    """Backward of the penalties: once for all micro-batches of an update; returns their share of its loss.

    Every process computes the same, behind the sum of the rows' gradients, so that it is in each of them once.

    Args:
        job: The run.
        batch: Any of the micro-batches, which a penalty does not look at.
        parts: Takes in the share of each term.
    """
    penalties = [term for term in job.terms if term.once]
    if not penalties:
        return 0.0
    context, scale = job.context(), job.scaler.get_scale() if job.scaler else 1.0
    losses = []
    for term in penalties:
        if term.descend is not None:
            loss = term.weight * term.descend(term.weight * scale)
        else:
            loss = term.weight * term.loss(batch, context).total
            if loss.requires_grad:  # of a stage that trains nothing which is held, it is a number
                (loss * scale).backward()
        losses.append((term.name, loss.detach()))
    add_parts(parts, losses)
    return float(torch.stack([loss for _, loss in losses]).sum())


def add_parts(parts: dict[str, float] | None, losses: Sequence[tuple[str, torch.Tensor]]) -> None:
    """Count the weighed losses of terms into their shares of the update's loss; entries of one method share a name."""
    if parts is None:
        return
    for name, loss in losses:
        parts[name] = parts.get(name, 0.0) + float(loss.detach())


def backward_all(
    job: Job, batches: Sequence[Batch], counts: dict[str, float], parts: dict[str, float], watch: GradientWatch | None
) -> float:
    """Forward and backward of every micro-batch; returns the update's loss, over all processes."""
    # rows of another kind are no sample of these; where weights lie in shares, so do gradients
    loss_sum, alike = 0.0, not job.engine.sharded and not any("source" in batch for batch in batches)
    job.engine.begin(job.trainable, len(batches))
    for number, batch in enumerate(batches):
        loss_sum += backward(job, batch, counts, parts)
        if watch and alike and number == 0 < len(batches) - 1:
            term = job.terms[0]
            scale = job.scaler.get_scale() if job.scaler else 1.0
            watch.first_part(float(term.count(batch)) / max(1.0, counts[term.name]), scale)
    job.engine.finish(job.trainable)
    return loss_over_all(job.engine.group, loss_sum, parts, [t.name for t in job.terms if not t.once])


def backward(job: Job, batch: Batch, counts: dict[str, float], parts: dict[str, float] | None = None) -> float:
    """Forward and backward of one micro-batch; returns its share of the update's loss.

    Args:
        job: The run.
        batch: The micro-batch.
        counts: Units of every term over the whole update.
        parts: Takes in the share of each term.
    """
    context = job.context()
    weight = 0.0 if batch.get("idle") else 1.0

    def forward() -> tuple[Any, list[tuple[str, torch.Tensor]]]:
        with job.precision.context(job.device), job.keeping():
            asked = [term for term in job.terms if term.reads(batch) and counts.get(term.name)]
            losses = [(t.name, (t.weight * weight / counts[t.name]) * t.loss(batch, context).total) for t in asked]
            return sum(loss for _, loss in losses), losses

    with holding(job.model):
        share, losses = job.engine.run(forward)
        if not isinstance(share, torch.Tensor):
            return 0.0
        add_parts(parts if len(job.terms) > 1 else None, losses)
        if not share.requires_grad and "source" in batch:  # a stage may train nothing that reaches these rows
            return float(share)
        if not share.requires_grad:
            raise TrainingStopped(
                "the loss depends on no tensor that is trained",
                where=f"rows {row_names([batch])}",
                fix="something cuts the graph: gradient checkpointing of the reentrant kind, `no_grad`, a `detach`",
            )
        job.engine.backward(job.scaler.scale(share) if job.scaler else share)
    return float(share.detach())


def evaluate_now(job: Job, state: TrainState, callbacks: Sequence[Callback]) -> bool:
    """Score the validation rows, take note of the result, and say whether it is the best so far."""
    assert job.evaluate is not None
    with in_evaluation(job.model):
        metrics = job.evaluate()
    improved = state.record(job.cadence.metric, metrics[job.cadence.metric], job.cadence.min_improvement)
    epoch = job.updates.epoch(state.step)
    tell(callbacks, Evaluated(step=state.step, epoch=epoch, metrics=metrics, improved=improved))
    return improved


def due(step: int, every: int | None, total: int) -> bool:
    """Whether something that happens ``every`` so many steps, and at the end, happens now."""
    return step == total or bool(every and step % every == 0)


def tell(callbacks: Sequence[Callback], event: Event) -> list[Action]:
    """Hand an event to every callback and collect what they ask for."""
    return [action for callback in callbacks if (action := callback(event)) is not None]


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with its tensors on ``device``."""
    moved = {k: v.to(device, non_blocking=True) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    return moved  # type: ignore[return-value]  # same keys, same kinds


def measure(state: TrainState, seen: Mapping[str, int], *, began: float, **values: float) -> dict[str, float]:
    """Count tokens and time of one update into the state, and return the line for the log."""
    seconds = time.perf_counter() - began
    state.tokens += seen["tokens"]
    state.trained_tokens += seen["trained_tokens"]
    state.seconds += seconds
    return {**values, **seen, "seconds": seconds, "tokens_per_second": seen["tokens"] / seconds}


def refuse_non_finite_loss(loss: float, batches: Sequence[Batch], step: int) -> None:
    """Stop before the update when the loss is NaN or infinite."""
    if loss != loss or abs(loss) == float("inf"):
        raise TrainingStopped(
            f"the loss of update {step + 1} is {loss}; the weights were not touched",
            where=f"rows {row_names(batches)}",
            fix="look at these rows, lower `train.learning_rate`, or use `train.precision=fp32`",
        )


def refuse_non_finite_gradients(norm: float, job: Job, batches: Sequence[Batch], step: int) -> None:
    """Stop before the update when a gradient is NaN or infinite, and name the first such tensor."""
    if norm == norm and norm != float("inf"):
        return
    found = ((n, job.engine.gradient(p)) for n, p in job.trainable)
    bad = [(n, g.dtype) for n, g in found if g is not None and not bool(torch.isfinite(g).all())]
    named = f"{bad[0][0]} ({bad[0][1]})" if bad else "the global norm"
    raise TrainingStopped(
        f"the gradient of update {step + 1} is not finite in {len(bad)} of {len(job.trainable)} tensors; "
        "the weights were not touched",
        where=f"{named}; rows {row_names(batches)}",
        fix="lower `train.learning_rate`, or use `train.precision=fp32`",
    )


def row_names(batches: Sequence[Batch], most: int = 8) -> str:
    """The first rows of an update, for a message."""
    rows = [
        ("replayed " if batch.get("source") == REPLAY else "") + str(row)
        for batch in batches
        for row in batch["row_ids"]
    ]
    return ", ".join(rows[:most]) + (f" and {len(rows) - most} more" if len(rows) > most else "")
