"""THE loop. Every method, objective and task trains through this file."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

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
from burnish.core.types import Batch, Term
from burnish.data.replay import SOURCE as REPLAY
from burnish.models.route import holding
from burnish.train.first_update import foresee
from burnish.train.gradients import GradientWatch
from burnish.train.interrupt import Interrupt
from burnish.train.job import Job
from burnish.train.liveness import Liveness, Watched
from burnish.train.state import TrainState

PART = "loss."
"""Put before the name of a term where the log holds its share of the loss."""


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
    asked: list[Action] = []
    with Interrupt() as interrupted:
        while not state.reason:
            evaluated = evaluation_due(job, state, asked) and not interrupted()
            improved = evaluated and evaluate_now(job, state, callbacks)
            state.reason = reason_to_stop(job, state, asked, interrupted())
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
                for action in asked:
                    if isinstance(action, LowerRate):
                        state.lower(action.factor)
    tell(callbacks, Finished(step=state.step, reason=state.reason))
    return state


def enter_stage(job: Job, state: TrainState, callbacks: Sequence[Callback]) -> Liveness:
    """Make ready for the stage of the next update; what it trains is watched from its beginning."""
    stage = job.stages.enter(state.step, job.trainable, job.optimizer)
    if len(job.stages) > 1:
        number = job.stages.number(state.step) + 1
        tell(
            callbacks,
            Beginning(f"stage {number} of {len(job.stages)}: {stage.label}, {stage.end - stage.begin} updates"),
        )
    trained = [(n, p) for n, p in job.trainable if n in stage.names]
    watched = [one for n, p in trained for one in job.watched.get(n, (Watched(n, p),))]
    return Liveness(watched, stage.end - stage.begin if state.step == stage.begin else 0)


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
    if state.step == 0 or state.evaluated_step == state.step:
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
    # dropout is a function of seed and step, so a resumed run draws the same masks without stored generators
    torch.manual_seed(job.seed * 1_000_003 + state.step)
    batches = [to_device(batch, job.device) for batch in (*job.updates[state.step], *job.further(state.step))]
    counts, parts = count_units(job.terms, batches), dict[str, float]()
    watch = job.watch if job.watch and job.watch.due(state.step) else None
    loss_sum = backward_all(job, batches, counts, parts, watch) + penalize(job, batches[0], parts)
    try:
        refuse_non_finite_loss(loss_sum, batches, state.step)
        if job.scaler:
            job.scaler.unscale_(job.optimizer)
        norm = float(nn.utils.clip_grad_norm_([p for _, p in job.trainable], job.max_grad_norm or float("inf")))
        if not job.scaler:
            refuse_non_finite_gradients(norm, job.trainable, batches, state.step)
    except TrainingStopped as stop:
        job.keep(state, [batch for batch in batches if batch.get("source", REPLAY) == REPLAY], stop)
        raise
    liveness.saw_gradients(task for batch in batches for task in batch.get("tasks", ()))
    if watch:
        watch.before_update(norm, job.max_grad_norm)
    foreseen = foresee(job.optimizer, job.trainable, rate)
    made = step_optimizer(job, state)
    if made:
        job.observe(state.step + 1)
    measured = watch.after_update(made) if watch else {}
    job.optimizer.zero_grad(set_to_none=True)
    if made:
        if foreseen:
            foreseen.judge()
        liveness.updated(rate)
    named = {PART + name: value for name, value in parts.items()} if len(job.terms) > 1 else {}
    return measure(state, batches, loss=loss_sum, **named, grad_norm=norm, learning_rate=rate, began=began), measured


def step_optimizer(job: Job, state: TrainState) -> bool:
    """Apply the gradients; False where fp16 loss scaling skipped an overflow."""
    if not job.scaler:
        job.optimizer.step()
        return True
    before = job.scaler.get_scale()
    job.scaler.step(job.optimizer)
    job.scaler.update()
    skipped = job.scaler.get_scale() < before
    state.skipped_steps += int(skipped)
    return not skipped


def count_units(terms: Sequence[Term], batches: Sequence[Batch]) -> dict[str, float]:
    """Units of every term over the micro-batches of an update, by its name; penalties are no part of it."""
    return {t.name: sum(float(t.count(b)) for b in batches if t.reads(b)) for t in terms if not t.once}


def penalize(job: Job, batch: Batch, parts: dict[str, float] | None = None) -> float:
    """Backward of the penalties: once for all micro-batches of an update; returns their share of its loss.

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
    """Forward and backward of every micro-batch; returns the update's loss."""
    loss_sum, alike = (
        0.0,
        not any("source" in batch for batch in batches),
    )  # rows of another kind are no sample of these
    for number, batch in enumerate(batches):
        loss_sum += backward(job, batch, counts, parts)
        if watch and alike and number == 0 < len(batches) - 1:
            term = job.terms[0]
            scale = job.scaler.get_scale() if job.scaler else 1.0
            watch.first_part(float(term.count(batch)) / max(1.0, counts[term.name]), scale)
    return loss_sum


def backward(job: Job, batch: Batch, counts: dict[str, float], parts: dict[str, float] | None = None) -> float:
    """Forward and backward of one micro-batch; returns its share of the update's loss.

    Args:
        job: The run.
        batch: The micro-batch.
        counts: Units of every term over the whole update.
        parts: Takes in the share of each term.
    """
    context = job.context()
    with holding(job.model):
        with job.precision.context(job.device), job.keeping():
            asked = [term for term in job.terms if term.reads(batch) and counts.get(term.name)]
            losses = [(t.name, (t.weight / counts[t.name]) * t.loss(batch, context).total) for t in asked]
            share = sum(loss for _, loss in losses)
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
        scaled = job.scaler.scale(share) if job.scaler else share
        scaled.backward()
    return float(share.detach())


def evaluate_now(job: Job, state: TrainState, callbacks: Sequence[Callback]) -> bool:
    """Score the validation rows, take note of the result, and say whether it is the best so far."""
    was_training = job.model.training
    job.model.eval()
    try:
        metrics = job.evaluate()
    finally:
        job.model.train(was_training)
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


def measure(state: TrainState, batches: Sequence[Batch], *, began: float, **values: float) -> dict[str, float]:
    """Count tokens and time of one update into the state, and return the line for the log."""
    batches = [batch for batch in batches if "source" not in batch]  # the task's own rows are what is counted
    tokens = sum(real_tokens(batch) for batch in batches)
    trained = sum(int((batch["labels"] != -100).sum()) for batch in batches)
    seconds = time.perf_counter() - began
    state.tokens, state.trained_tokens = state.tokens + tokens, state.trained_tokens + trained
    state.seconds += seconds
    rows = sum(len(batch["row_ids"]) for batch in batches)
    counted = {"rows": rows, "micro_batches": len(batches), "tokens": tokens, "trained_tokens": trained}
    return {**values, **counted, "seconds": seconds, "tokens_per_second": tokens / seconds}


def real_tokens(batch: Batch) -> int:
    """Tokens that are no padding, on both sides of an encoder-decoder."""
    masks = [batch[key] for key in ("attention_mask", "decoder_attention_mask") if key in batch]  # type: ignore[literal-required]
    return sum(int(mask.sum()) for mask in masks) if masks else batch["input_ids"].numel()


def refuse_non_finite_loss(loss: float, batches: Sequence[Batch], step: int) -> None:
    """Stop before the update when the loss is NaN or infinite."""
    if loss != loss or abs(loss) == float("inf"):
        raise TrainingStopped(
            f"the loss of update {step + 1} is {loss}; the weights were not touched",
            where=f"rows {row_names(batches)}",
            fix="look at these rows, lower `train.learning_rate`, or use `train.precision=fp32`",
        )


def refuse_non_finite_gradients(
    norm: float, trainable: Sequence[tuple[str, nn.Parameter]], batches: Sequence[Batch], step: int
) -> None:
    """Stop before the update when a gradient is NaN or infinite, and name the first such tensor."""
    if norm == norm and norm != float("inf"):
        return
    bad = [(n, p) for n, p in trainable if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
    named = f"{bad[0][0]} ({bad[0][1].grad.dtype})" if bad and bad[0][1].grad is not None else "the global norm"
    raise TrainingStopped(
        f"the gradient of update {step + 1} is not finite in {len(bad)} of {len(trainable)} tensors; "
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
