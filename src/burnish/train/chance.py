"""The loss of somebody who knows nothing of a row: what a first loss is held against."""

from __future__ import annotations

import math

import numpy as np

from burnish.data.table import TokenTable
from burnish.models.load import Loaded


def chance_loss(loaded: Loaded, train: TokenTable) -> float | None:
    """The loss in nats of guessing without reading.

    For a text ``log V``, each of the V tokens being as likely; for a classification the entropy of the classes,
    ``-sum_k n_k/N log(n_k/N)``, which is ``log K`` for K classes of one size. None for other tasks.
    """
    head = loaded.classifier
    if head is None:
        return math.log(loaded.model.config.get_text_config().vocab_size)
    if head.task != "classification" or not len(train.labels):
        return None
    counts = np.bincount(train.labels)
    shares = counts[counts > 0] / len(train.labels)
    return float(-(shares * np.log(shares)).sum())
