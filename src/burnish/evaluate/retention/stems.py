"""Choices of questions scored with as few tokens through the model as tell them apart.

A choice ``a_1 ... a_m`` behind its question q is scored from the hidden states of q, a_1, ..., a_(m-1): its last token
is only predicted. What another choice's tokens begin with needs no row of its own, so that a question whose choices are
single tokens takes one row, and not as many as it has choices.

Shapes: C predicted tokens, P places with a prediction, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.data.render import Rendered
from burnish.data.table import TokenTable
from burnish.evaluate.loss import Pass, View, passes, row_losses


@dataclass(frozen=True)
class Stems:
    """The rows that choices are read from.

    Attributes:
        table: The rows; none is the beginning of another.
        rows: [C] for each predicted token the row that it is read from.
        places: [C] the token of that row behind which it stands.
        tokens: [C] the token itself.
        choices: [C] the choice that it is part of.
    """

    table: TokenTable
    rows: NDArray[np.int64]
    places: NDArray[np.int64]
    tokens: NDArray[np.int64]
    choices: NDArray[np.int64]


def stems_of(answers: TokenTable) -> Stems:
    """The rows that all choices can be read from.

    Args:
        answers: A row for each choice, of which the choice is predicted.
    """
    ids = [answers.row(choice)[0].tolist() for choice in range(len(answers))]
    inputs = sorted(range(len(ids)), key=lambda choice: ids[choice][:-1])
    found, row_of = list[list[int]](), {}
    for place, choice in enumerate(inputs):  # in order, what begins as a row stands right before it
        own = ids[choice][:-1]
        after = ids[inputs[place + 1]][:-1] if place + 1 < len(inputs) else []
        row_of[choice] = len(found)
        if after[: len(own)] != own:
            found.append(own)
    predicted = [np.flatnonzero(answers.row(choice)[1]) for choice in range(len(ids))]
    counts = [len(own) for own in predicted]
    return Stems(
        TokenTable.build([str(i) for i in range(len(found))], [_row(one) for one in found]),
        np.repeat([row_of[choice] for choice in range(len(ids))], counts),
        np.concatenate(predicted) - 1,
        np.concatenate([np.asarray(own)[at] for own, at in zip(ids, predicted, strict=True)]).astype(np.int64),
        np.repeat(np.arange(len(ids)), counts),
    )


def choice_losses(view: View, answers: TokenTable) -> NDArray[np.float64]:
    """[A] negative log-likelihood of every choice, in nats.

    An encoder-decoder, and a model with parts for rows of some tasks, are given every choice as a row.
    """
    if answers.is_seq2seq or len(answers.tasks):
        return row_losses(view, answers).totals
    stems, totals = stems_of(answers), np.zeros(len(answers))
    order = np.argsort(stems.rows, kind="stable")
    borders = np.searchsorted(stems.rows[order], np.arange(len(stems.table) + 1))
    for one in passes(view, stems.table):
        owners = np.concatenate([order[borders[row] : borders[row + 1]] for row in one.rows])
        starts = np.repeat(one.starts.numpy(), np.diff(borders)[one.rows])
        losses = _losses(one, starts + stems.places[owners], stems.tokens[owners])
        np.add.at(totals, stems.choices[owners], losses)
    return totals


def _losses(one: Pass, places: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """[C] loss of each token behind its place; what stands behind one place shares its logits."""
    distinct, which = np.unique(places, return_inverse=True)
    hidden = one.hidden.flatten(0, 1)[torch.from_numpy(distinct).to(one.hidden.device)]
    found, step = np.zeros(len(tokens)), one.head.chunk_rows(hidden.device)
    for start in range(0, len(distinct), step):
        logits_PV = one.head(hidden[start : start + step]).float()
        here = np.flatnonzero((which >= start) & (which < start + step))
        rows, wanted = (torch.from_numpy(a).to(hidden.device) for a in (which[here] - start, tokens[here]))
        norms = logits_PV.logsumexp(-1)
        found[here] = (norms[rows] - logits_PV[rows, wanted]).double().cpu().numpy()
    return found


def _row(ids: list[int]) -> Rendered:
    return Rendered(ids, [False] * len(ids), ids, [], len(ids))
