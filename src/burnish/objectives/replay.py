"""The loss of replayed rows, beside the task's and apart from it.

    L = L_task + weight * (b_g / b_t) * sum_i (-log p(y_i | context_i)) / N_g

over the N_g labelled positions of an update's general rows, where it holds b_g units of them beside b_t of the task:
at weight 1 one general row (or token, by the unit of the ratio) counts for as much as one of the task. The two means
stay apart, since a row of general text carries a hundred times the labels of a short answer.

A task with a head replays labelled rows, and the sum is that of the task's own loss over them: rows, words or pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from burnish.core.types import Batch, Context, Loss, Term
from burnish.data.replay import SOURCE
from burnish.objectives.sft import labelled_tokens, supervised_loss


def replay_terms(weight: float = 1.0) -> list[Term]:
    """The term of replayed rows, which no other term reads; their share b_g / b_t comes in the weights of a batch."""
    return [Term(SOURCE, weight, count=labelled_tokens, loss=supervised_loss, source=SOURCE)]


def replayed_terms(terms: Sequence[Term], weight: float = 1.0) -> list[Term]:
    """The same for labelled rows: the task's own terms, asked of the rows that are replayed.

    Args:
        terms: Those of the task; a task with a head has one.
        weight: Factor on the loss of replayed rows.
    """
    (term,) = terms
    return [Term(SOURCE, weight * term.weight, count=term.count, loss=partial(_weighed, term), source=SOURCE)]


def _weighed(term: Term, batch: Batch, context: Context) -> Loss:
    """The loss of a micro-batch, all of whose rows have one weight."""
    found = term.loss(batch, context)
    return Loss(found.total * batch["weights"].flatten()[0], found.metrics)
