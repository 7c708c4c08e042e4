"""The first training rows, for methods that set their initial values by them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from burnish.core.types import Batch, Context, Term
from burnish.models.modes import in_evaluation
from burnish.train.loop import to_device
from burnish.train.precision import Precision
from burnish.train.updates import Updates


@dataclass(frozen=True)
class Rows:
    """Micro-batches of the first updates, with what it takes to run a model on them.

    Attributes:
        model: The model.
        updates: The run's micro-batches.
        terms: The objective of the task.
        context: Makes the view of the model that the terms see.
        precision: Number formats.
        device: Where the batches go.
    """

    model: nn.Module
    updates: Updates
    terms: Sequence[Term]
    context: Callable[[], Context]
    precision: Precision
    device: torch.device

    def sample(self, count: int) -> Iterator[tuple[Batch, Callable[[], Tensor]]]:
        """The first micro-batches, each with a function that runs the model on it and returns its mean loss.

        Dropout is off, so that what is found depends on rows and weights alone.
        """
        with in_evaluation(self.model):
            for batch in self._first(count):
                yield batch, partial(self._loss, batch)

    def _first(self, count: int) -> Iterator[Batch]:
        left = count
        for step in range(len(self.updates)):
            for rows in self.updates.cut(step)[:left]:
                left -= 1
                yield to_device(self.updates.collate(rows), self.device)
            if not left:
                return

    def _loss(self, batch: Batch) -> Tensor:
        context = self.context()
        with self.precision.context(self.device):
            shares = [(t.weight, t.count(batch), t.loss(batch, context).total) for t in self.terms]
            total = sum(weight * loss / count for weight, count, loss in shares if float(count))
        return total if isinstance(total, Tensor) else torch.zeros(())
