"""Classification: the cross-entropy of each row's class. Shapes: B rows, K classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from burnish.core.types import Batch, Context, Loss, Mean, Term
from burnish.ops.own_classes import own_mask


def classification_terms(
    *,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
    class_weights: Sequence[float] | None = None,
    class_tasks: Sequence[str] = (),
) -> list[Term]:
    """The terms of a classification: one, named ``classification``.

    Over all rows i of an update, with p the softmax of a row's logits, y its class and N the number of rows,

        L = sum_i w_y m_i / N,   m_i = -sum_k q_ik log p_ik,   q_ik = (1 - s) [k = y_i] + s / K,

    with label smoothing s (Szegedy et al., 2016, section 7). Without it, focal loss (Lin et al., 2017, equation 4)
    multiplies ``m_i`` by ``(1 - p_iy)^gamma``. Class weights have the mean 1 over the training rows, so the count stays
    the rows; PyTorch divides by the sum of an update's weights in their place, which depends on what is drawn.

    Args:
        label_smoothing: s.
        focal_gamma: gamma.
        class_tasks: [K] the task of each class, where several have classes of their own. p and K are then those of the
            classes of the row's task, so that nothing is spread over another's.
        class_weights: [K] w; with smoothing, each class's share of the target is weighed by its own, as in PyTorch.
    """
    weights = torch.tensor(class_weights, dtype=torch.float32) if class_weights is not None else None
    loss = partial(
        classification_loss,
        label_smoothing=label_smoothing,
        focal_gamma=focal_gamma,
        class_weights=weights,
        class_tasks=tuple(class_tasks),
    )
    return [Term(name="classification", weight=1.0, count=rows_of, loss=loss)]


def rows_of(batch: Batch) -> Tensor:
    """How many rows a micro-batch has, []."""
    return torch.tensor(batch["labels"].shape[0])


def classification_loss(
    batch: Batch,
    context: Context,
    *,
    label_smoothing: float,
    focal_gamma: float,
    class_weights: Tensor | None,
    class_tasks: tuple[str, ...] = (),
) -> Loss:
    """Sum over the rows; the metric ``loss`` is the plain mean of ``-log p_y`` in nats."""
    logits_BK, labels_B = context.class_logits(batch), batch["labels"]
    weights = class_weights.to(logits_BK) if class_weights is not None else None
    if class_tasks and label_smoothing:
        own_BK = own_mask(class_tasks, batch["tasks"], logits_BK.device)
        losses_B = smoothed_over_own(logits_BK, labels_B, own_BK, label_smoothing, weights)
    else:
        losses_B = F.cross_entropy(
            logits_BK, labels_B, weight=weights, label_smoothing=label_smoothing, reduction="none"
        )
    plain_B = F.cross_entropy(logits_BK.detach(), labels_B, reduction="none")
    if focal_gamma:
        certain = torch.log_softmax(logits_BK, dim=-1).gather(1, labels_B[:, None])[:, 0].exp()
        losses_B = losses_B * (1 - certain).clamp_min(1e-12) ** focal_gamma
    metric = Mean(float(plain_B.double().sum()), float(plain_B.numel()))
    return Loss(total=losses_B.sum(), metrics={"loss": metric})


def smoothed_over_own(
    logits_BK: Tensor, labels_B: Tensor, own_BK: Tensor, smoothing: float, weights: Tensor | None
) -> Tensor:
    """[B] smoothed cross-entropies whose spread share stays with the classes of each row's task.

    ``-(1 - s) w_y log p_y - s / K_t sum_(k in t) w_k log p_k`` with the K_t classes of the row's task t: what PyTorch
    computes for a head that has these classes only.
    """
    logs_BK = torch.log_softmax(logits_BK, dim=-1) * (weights if weights is not None else 1.0)
    spread_B = logs_BK.masked_fill(~own_BK, 0.0).sum(1) / own_BK.sum(1)
    return -(1 - smoothing) * logs_BK.gather(1, labels_B[:, None])[:, 0] - smoothing * spread_B


def balanced_weights(labels: NDArray[np.int64], classes: int, class_tasks: Sequence[str] = ()) -> list[float]:
    """``w_k = N / (K n_k)`` over the K classes with rows, as `scikit-learn` balances; 1 for a class without any.

    Where tasks have classes of their own, N and K are those of each task, so that the mean weight of its rows is 1.
    """
    counts = np.bincount(labels, minlength=classes)
    groups = class_tasks or ("",) * classes
    rows, present = Counter[str](), Counter[str]()
    for group, n in zip(groups, counts.tolist(), strict=True):
        rows[group] += n
        present[group] += n > 0
    return [float(rows[g] / (present[g] * n)) if n else 1.0 for g, n in zip(groups, counts.tolist(), strict=True)]
