"""The first training rows, for methods that set their initial values by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from burnish.core.types import Batch
from burnish.train.loop import to_device

if TYPE_CHECKING:
    from burnish.train.setup import Setup


def sample(setup: Setup, count: int) -> Iterator[tuple[Batch, Callable[[], Tensor]]]:
    """The first micro-batches of the run, each with a function that runs the model on it and returns its mean loss.

    Dropout is off, so that what is found depends on rows and weights alone; gradients are cleared in the end.
    """
    was_training = setup.loaded.model.training
    setup.loaded.model.eval()
    try:
        for batch in _first(setup, count):
            yield batch, partial(_loss, setup, batch)
    finally:
        setup.loaded.model.train(was_training)
        for _, parameter in setup.trainable_now():
            parameter.grad = None


def _first(setup: Setup, count: int) -> Iterator[Batch]:
    left = count
    for step in range(len(setup.updates)):
        for rows in setup.updates.cut(step)[:left]:
            left -= 1
            yield to_device(setup.updates.collate(rows), setup.device)
        if not left:
            return


def _loss(setup: Setup, batch: Batch) -> Tensor:
    context = setup.context()
    with setup.precision.context(setup.device):
        shares = [(t.weight, t.count(batch), t.loss(batch, context).total) for t in setup.task_terms]
        total = sum(weight * loss / count for weight, count, loss in shares if float(count))
    return total if isinstance(total, Tensor) else torch.zeros(())
