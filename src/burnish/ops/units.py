"""What a head of each task is wrong by, one number for each thing that it says; pure functions of its logits.

Shapes: B rows, T tokens, K classes, R rows of a batch (those in a pack too), N units. Each gives [N] losses, in the
order of the rows, and [N] the row that each belongs to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.core.types import Batch

IGNORED = -100
Units = tuple[Tensor, Tensor]
UnitLosses = Callable[[Tensor, Batch], Units]


def _each(losses: Tensor) -> Units:
    return losses, torch.arange(losses.shape[0], device=losses.device)


def class_units(logits_BK: Tensor, batch: Batch) -> Units:
    """``-log p(class)`` of each row."""
    return _each(F.cross_entropy(logits_BK, batch["labels"], reduction="none"))


def token_units(logits_BTK: Tensor, batch: Batch) -> Units:
    """``-log p(tag)`` of each token with a tag."""
    labels = batch["labels"]
    on = labels != IGNORED
    return F.cross_entropy(logits_BTK[on], labels[on], reduction="none"), batch["segment_ids"][on]


def span_units(logits_BT2: Tensor, batch: Batch) -> Units:
    """``-(log p(start) + log p(end)) / 2`` of each window, over the places that an answer can have."""
    starts, ends = span_log_shares(logits_BT2, batch)
    places = batch["labels"].long()
    rows = torch.arange(len(places), device=places.device)
    return _each(-(starts[rows, places[:, 0]] + ends[rows, places[:, 1]]) / 2)


def several_units(logits_BK: Tensor, batch: Batch) -> Units:
    """``-mean_k (y_k log s(x_k) + (1 - y_k) log s(-x_k))`` of each row, with the logistic function s."""
    labels = batch["labels"].to(logits_BK.dtype)
    return _each(F.binary_cross_entropy_with_logits(logits_BK, labels, reduction="none").mean(-1))


def squared_units(logits_B1: Tensor, batch: Batch) -> Units:
    """``(x - y)^2`` of each row, in standard deviations."""
    return _each((logits_B1[:, 0] - batch["labels"][:, 0].to(logits_B1.dtype)) ** 2)


def huber_units(logits_B1: Tensor, batch: Batch) -> Units:
    """``min(d^2 / 2, |d| - 1/2)`` with ``d = x - y`` in standard deviations (Huber, 1964, with delta 1)."""
    return _each(F.huber_loss(logits_B1[:, 0], batch["labels"][:, 0].to(logits_B1.dtype), reduction="none"))


def pair_units(logits_R1: Tensor, batch: Batch) -> Units:
    """``-log s(r_chosen - r_rejected)`` of each pair (Bradley and Terry, 1952); the rejected rows come last."""
    chosen, rejected = logits_R1[:, 0].chunk(2)
    return _each(-F.logsigmoid(chosen - rejected))


def span_log_shares(logits_BT2: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """[R, T] log-probabilities of both ends over the context's tokens and the row's first, which means no answer."""
    logits = by_row(logits_BT2, batch)
    numbers = batch["labels"].long()
    places = torch.arange(logits.shape[1], device=logits.device)
    allowed = ((places >= numbers[:, 2:3]) & (places < numbers[:, 3:4])) | (places == 0)
    masked = logits.masked_fill(~allowed[..., None], float("-inf"))
    shares = torch.log_softmax(masked, dim=1)
    return shares[..., 0], shares[..., 1]


def by_row(values_BTK: Tensor, batch: Batch) -> Tensor:
    """[R, T, K] of a batch of any layout, each row at its beginning; what fills up behind it is zero."""
    if "segment_lengths" not in batch:
        return values_BTK
    parts = values_BTK[0].split(list(batch["segment_lengths"]))
    return torch.nn.utils.rnn.pad_sequence(list(parts), batch_first=True)


UNIT_LOSSES: Mapping[str, UnitLosses] = {
    "classification": class_units,
    "token-classification": token_units,
    "extractive-qa": span_units,
    "multi-label": several_units,
    "regression": squared_units,
    "ranking": pair_units,
}
"""The plain loss of each task, as it is reported."""
