"""A classification scored by its head: one forward pass a batch gives every row's loss and all its probabilities."""

from __future__ import annotations

import numpy as np
import torch

from burnish.core.errors import UserError
from burnish.data.table import TokenTable
from burnish.evaluate.choices import Scores
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.models.classifier import class_logits


def score_classes(view: View, table: TokenTable, progress: Progress | None = None) -> tuple[RowLosses, Scores]:
    """Loss of every row, ``-log p(class)`` in nats, and the log-probability of every class, [N, K].

    Args:
        view: The model with its head; it is put into evaluation mode and back.
        table: The rows with their classes.
        progress: Told how many rows are done.

    Raises:
        UserError: The model has no head.
    """
    model, classifier = view.loaded.model, view.loaded.classifier
    if classifier is None:
        raise UserError("this model has no classification head", fix="name a run that trained one")
    scores = np.zeros((len(table), len(classifier.labels)))
    was_training, done = model.training, 0
    model.eval()
    try:
        for rows in view.batches(table):
            batch = view.collate(table, rows)
            with torch.no_grad(), view.autocast():  # type: ignore[attr-defined]
                logits = class_logits(model, classifier, batch)
            scores[rows] = torch.log_softmax(logits.double(), dim=-1).cpu().numpy()
            done += len(rows)
            if progress:
                progress(done)
    finally:
        model.train(was_training)
    totals = -scores[np.arange(len(table)), table.labels] if len(table) else np.zeros(0)
    return RowLosses(totals, np.ones(len(table))), scores
