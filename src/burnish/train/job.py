"""What the loop works with and does not own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from burnish.core.errors import TrainingStopped
from burnish.core.types import Batch, Context, Term
from burnish.train.distributed.engine import Engine
from burnish.train.gradients import GradientWatch
from burnish.train.liveness import Watched
from burnish.train.precision import Precision
from burnish.train.stages import Stages
from burnish.train.state import TrainState
from burnish.train.updates import Steps


@dataclass(frozen=True)
class Cadence:
    """When the loop evaluates, saves and gives up; None means never in between."""

    evaluate_every: int | None = None
    save_every: int | None = None
    metric: str = "loss"
    min_improvement: float = 0.0
    patience: int | None = None


@dataclass(frozen=True)
class Job:
    """Everything that the loop works with and does not own.

    Attributes:
        model: The model with its adapters attached.
        terms: The objective: weighted terms.
        updates: The micro-batches of each update.
        optimizer: Any PyTorch optimiser over ``trainable``.
        stages: What is trained at an update, and how fast, from its number counted from 0.
        trainable: Names and parameters that are trained.
        context: Makes the view of the model that the terms see.
        precision: Number formats.
        keeping: Context of a forward pass that decides where its activations wait for the backward pass.
        evaluate: Scores the validation rows; the metrics by name. None where nothing is scored.
        save: Writes a checkpoint of this state.
        keep: Writes the micro-batches of an update that was refused, and the weights before it.
        scaler: fp16 loss scaling, else None.
        max_grad_norm: Gradients are scaled down to this global L2 norm.
        watched: Of the trained parameters those that rows of some tasks only reach, by name: what of each to watch.
        seed: Seed of dropout.
        cadence: When to evaluate, save and give up.
        observe: Sees gradients and new values after an update that was made, from the number of updates done.
        averages: Puts the averages of the weights in their place, where those are what is handed over.
        buffers: Names and tensors that are kept in checkpoints and not trained.
        further: Micro-batches of an update beside those of the task, from its number; each names its ``source``.
        watch: Measures gradients and updates, without changing anything; None measures nothing.
        engine: What carries the passes and the update: one process, or several.
    """

    model: nn.Module
    terms: Sequence[Term]
    updates: Steps
    optimizer: torch.optim.Optimizer
    stages: Stages
    trainable: Sequence[tuple[str, nn.Parameter]]
    context: Callable[[], Context]
    precision: Precision
    evaluate: Callable[[], dict[str, float]] | None
    save: Callable[[TrainState], Path]
    keep: Callable[[TrainState, Sequence[Batch], TrainingStopped], None] = lambda state, batches, stop: None
    keeping: Callable[[], AbstractContextManager[object]] = nullcontext
    scaler: torch.amp.GradScaler | None = None
    max_grad_norm: float | None = 1.0
    watched: Mapping[str, Sequence[Watched]] = field(default_factory=dict)
    seed: int = 0
    cadence: Cadence = field(default_factory=Cadence)
    observe: Callable[[int], None] = lambda step: None
    averages: Callable[[], None] | None = None
    buffers: Sequence[tuple[str, torch.Tensor]] = ()
    further: Callable[[int], Sequence[Batch]] = lambda step: ()
    watch: GradientWatch | None = None
    engine: Engine = field(default_factory=Engine)

    @property
    def device(self) -> torch.device:
        """Where the batches go."""
        return next(self.model.parameters()).device
