"""Supervised fine-tuning: the negative log-likelihood of the trained tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from burnish.core.types import Batch, Context, Loss, Mean, Term


def supervised_terms(weight: float = 1.0) -> list[Term]:
    """The terms of supervised fine-tuning: one, named ``sft``.

    Over all labelled positions i of an update,

        L = weight * sum_i w_i * (-log p(y_i | context_i)) / N,

    with N the number of labelled positions and w_i the batch's ``weights``, 1 without them. A weight therefore scales a
    token's or a row's gradient, and does not change what the others count for. Rows without a label contribute nothing.
    """
    return [Term(name="sft", weight=weight, count=labelled_tokens, loss=supervised_loss)]


def labelled_tokens(batch: Batch) -> Tensor:
    """How many positions carry a label, []."""
    return (batch["labels"] != -100).sum()


def supervised_loss(batch: Batch, context: Context) -> Loss:
    """Sum of the weighted token losses; the metric ``loss`` is the unweighted mean in nats."""
    losses_N = context.token_losses(batch)
    metric = Mean(float(losses_N.detach().double().sum()), float(losses_N.numel()))
    return Loss(total=(losses_N * token_weights(batch)).sum(), metrics={"loss": metric})


def token_weights(batch: Batch) -> Tensor:
    """Weights of the labelled positions, [N] in row-major order of ``labels``, or the scalar 1.

    ``weights`` is [B, T], one per position aligned with ``labels``, or [B], one per row; in a packed batch, which is
    one row to the model, a weight per packed row is looked up by ``segment_ids``.

    Raises:
        ValueError: The shape is none of these.
    """
    labels = batch["labels"]
    if "weights" not in batch:
        return torch.ones((), device=labels.device)
    weights = batch["weights"]
    labelled = labels != -100
    if weights.shape == labels.shape:
        return weights[labelled]
    if "segment_lengths" in batch and weights.shape == (len(batch["segment_lengths"]),):
        return weights[batch["segment_ids"][labelled]]
    if weights.shape == labels.shape[:1]:
        return weights[:, None].expand_as(labels)[labelled]
    raise ValueError(f"weights {tuple(weights.shape)} fit neither labels {tuple(labels.shape)} nor their rows")
