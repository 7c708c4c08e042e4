"""Between a job and its checkpoints: whole tensors out of whatever shares they lie in, and back again."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from burnish.checkpoint.store import Checkpoint
from burnish.core.errors import UserError
from burnish.train.distributed.engine import Engine
from burnish.train.job import Job
from burnish.train.setup import Setup


def gathered(
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    trainable: Sequence[tuple[str, torch.nn.Parameter]],
    buffers: Sequence[tuple[str, torch.Tensor]],
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a checkpoint, each in one piece, whatever shares they lie in.

    All processes gather them together, one after the other; of those that do not write, none keeps the weights.

    Raises:
        TrainingStopped: A weight is not whole.
    """
    device = None if engine.group.main else torch.device("meta")
    weights = {name: engine.whole(parameter).to(device=device) for name, parameter in trainable}
    engine.inventory(weights)
    tensors = {"trainable": weights, "optimizer": engine.moments(optimizer, trainable)}
    if buffers:
        tensors["buffers"] = {name: engine.whole(tensor) for name, tensor in buffers}
    return tensors


def restore(job: Job, checkpoint: Checkpoint) -> None:
    """Put a checkpoint back: weights, optimiser, loss scale."""
    load_trainable(job, checkpoint)
    job.engine.load_moments(job.optimizer, job.trainable, checkpoint.tensors.get("optimizer", {}))
    if job.scaler and "scaler" in checkpoint.state:
        job.scaler.load_state_dict(dict(checkpoint.state["scaler"]))


def load_trainable(job: Job, checkpoint: Checkpoint) -> None:
    """Put the trained tensors back, and what the adapters remember.

    Raises:
        UserError: The checkpoint holds other tensors than this run trains.
    """
    saved = {**checkpoint.tensors["trainable"], **checkpoint.tensors.get("buffers", {})}
    wanted: dict[str, torch.Tensor] = {**dict(job.trainable), **dict(job.buffers)}
    shapes = {name: tensor.shape for name, tensor in wanted.items()} | job.engine.shapes
    odd = sorted(saved.keys() ^ wanted.keys()) or [n for n in wanted if saved[n].shape != shapes[n]]
    if odd:
        raise UserError(
            f"the checkpoint and the run differ in {len(odd)} trained tensors, such as `{odd[0]}`",
            where=f"step {checkpoint.step}",
            fix="resume with the recipe that the run was started with",
        )
    with torch.no_grad():
        for name, parameter in wanted.items():
            job.engine.put(parameter, saved[name])


def trained_now(setup: Setup) -> list[tuple[str, torch.Tensor]]:
    """What is trained, as the modules hold it now: an engine that lets go of a model may have put new weights in."""
    head = setup.loaded.classifier
    return [*setup.attached.trainable(), *(head.named() if head is not None else [])]
