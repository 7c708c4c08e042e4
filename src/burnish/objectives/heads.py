"""Terms of the tasks whose loss is a plain mean over what a head says: words, windows, rows or pairs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from burnish.core.types import Batch, Context, Loss, Mean, Term
from burnish.ops.units import IGNORED, UnitLosses


def head_terms(name: str, units: UnitLosses, count: Callable[[Batch], Tensor]) -> list[Term]:
    """One term: ``L = sum_n l_n / N`` over the units of an update.

    Args:
        name: Its name.
        units: The loss of each unit, from logits and batch.
        count: How many units a micro-batch has.
    """
    return [Term(name=name, weight=1.0, count=count, loss=partial(_loss, units=units))]


def rows_of(batch: Batch) -> Tensor:
    """How many rows, windows or pairs a micro-batch has, []."""
    return torch.tensor(batch["labels"].shape[0])


def tokens_of(batch: Batch) -> Tensor:
    """How many of its tokens have a tag, []."""
    return (batch["labels"] != IGNORED).sum()


def _loss(batch: Batch, context: Context, *, units: UnitLosses) -> Loss:
    losses, _ = units(context.class_logits(batch), batch)
    plain = losses.detach().double()
    return Loss(total=losses.sum(), metrics={"loss": Mean(float(plain.sum()), float(plain.numel()))})
