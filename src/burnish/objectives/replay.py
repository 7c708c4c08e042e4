"""The objective where general rows are replayed: the task's terms on its rows, and a term of their own on the others.

    L = L_task + weight * (b_g / b_t) * sum_i (-log p(y_i | context_i)) / N_g

over the N_g labelled positions of an update's general rows, where it holds b_g units of them beside b_t of the task:
at weight 1 one general row (or token, by the unit of the ratio) counts for as much as one of the task. The two means
stay apart, since a row of general text carries a hundred times the labels of a short answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from burnish.core.types import Batch, Context, Loss, Term
from burnish.objectives.sft import labelled_tokens, supervised_loss

NAME = "replay"


def is_replayed(batch: Batch) -> bool:
    """Whether a micro-batch is of replayed rows, which belong to no task."""
    return "replay" in batch


def with_replay(terms: Sequence[Term], weight: float = 1.0) -> list[Term]:
    """The task's terms, which now pass over replayed rows, and the term of those; the share comes in their weights."""
    return [*(_of_task(term) for term in terms), Term(NAME, weight, count=_replayed, loss=_replay_loss)]


def _of_task(term: Term) -> Term:
    def count(batch: Batch) -> Tensor:
        return _nothing(batch) if is_replayed(batch) else term.count(batch)

    def loss(batch: Batch, context: Context) -> Loss:
        return Loss(_nothing(batch)) if is_replayed(batch) else term.loss(batch, context)

    return replace(term, count=count, loss=loss)


def _replayed(batch: Batch) -> Tensor:
    return labelled_tokens(batch) if is_replayed(batch) else _nothing(batch)


def _replay_loss(batch: Batch, context: Context) -> Loss:
    return supervised_loss(batch, context) if is_replayed(batch) else Loss(_nothing(batch))


def _nothing(batch: Batch) -> Tensor:
    return torch.zeros((), device=batch["labels"].device)
