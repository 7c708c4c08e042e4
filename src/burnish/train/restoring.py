"""Between a job and its checkpoints: whole tensors out of whatever shares they lie in, and back again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from burnish.checkpoint.store import Checkpoint
from burnish.core.dealing import takers
from burnish.core.errors import UserError
from burnish.train.distributed.engine import Engine, Keeps, kept
from burnish.train.job import Job
from burnish.train.setup import Setup


def gathered(
    engine: Engine,
    optimizer: torch.optim.Optimizer,
    trainable: Sequence[tuple[str, torch.nn.Parameter]],
    buffers: Sequence[tuple[str, torch.Tensor]],
    sharded: bool = False,
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a checkpoint, each in one piece, whatever shares they lie in.

    All processes gather them together, one after the other. A process keeps those that it writes, and of the others the
    shapes; that is all of them for the main one.

    Args:
        engine: What carries the run.
        optimizer: Whose state is saved.
        trainable: What is trained.
        buffers: What else is saved.
        sharded: Whether every process writes a part: whole tensors still, dealt out by size.

    Raises:
        TrainingStopped: A weight is not whole.
    """
    keeps = _dealt(engine, [*trainable, *buffers]) if sharded else lambda name: engine.group.main
    weights = {name: kept(name, engine.whole(tensor), keeps) for name, tensor in trainable}
    engine.inventory(weights)
    tensors = {"trainable": weights, "optimizer": engine.moments(optimizer, trainable, keeps)}
    if buffers:
        tensors["buffers"] = {name: kept(name, engine.whole(tensor), keeps) for name, tensor in buffers}
    return tensors


def _dealt(engine: Engine, named: Sequence[tuple[str, torch.Tensor]]) -> Keeps:
    """Which tensors this process writes of those that all processes write together."""
    sizes = [engine.shapes.get(name, tensor.shape).numel() for name, tensor in named]
    taken = takers(np.array(sizes, dtype=np.int64), engine.group.size)
    own = {name for (name, _), taker in zip(named, taken.tolist(), strict=True) if taker == engine.group.rank}
    return own.__contains__


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
