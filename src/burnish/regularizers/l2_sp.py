"""L2-SP: the squared distance from the weights that training began with (Li et al., 2018, arXiv:1802.01483)."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from burnish.core.types import Batch, Context, Loss, Mean, Term
from burnish.ops.distance import (
    LowRankUpdate,
    descend_distance_,
    descend_matrices_,
    low_rank_square,
    squared_distance,
)
from burnish.regularizers.anchors import Anchors
from burnish.regularizers.base import Made, RegularizerConfig, Subject, held, megabytes, note, one, regularizer


class L2SPConfig(RegularizerConfig):
    """The squared distance of the weights from those that training began with (Li et al., 2018).

    For LoRA, AdaLoRA and VeRA it is that of the tuned matrix, through two small products; for all else that is trained
    that of its parameters. The new head of a task is left free.
    """

    kind: Literal["l2_sp"] = "l2_sp"
    """The name of the regularizer."""
    weight: float = Field(0.01, gt=0, allow_inf_nan=False)
    """Factor on the squared distance, summed over all weights."""
    offload: bool = False
    """Keep the copies of trained weights in the memory of the host, on an accelerator; slower."""


@regularizer("l2_sp", L2SPConfig)
def l2_sp(config: L2SPConfig, subject: Subject) -> Made:
    """One penalty,

        L = weight * (sum_w ||w - w_0||^2 + sum_W ||s B A||_F^2),

    over trained tensors w and low-rank updates of matrices W (equation 3, without its factor of one half). Deviation:
    the paper also decays the weights of a new head towards zero; that is ``train.weight_decay`` here.

    Memory: a copy of each trained tensor (half of it where bf16 holds it exactly); nothing for low-rank updates.
    """
    anchors = Anchors.of(subject.tensors, offload=config.offload)
    matrices = tuple(subject.matrices)

    def loss(batch: Batch, context: Context) -> Loss:
        with torch.autocast(subject.device.type, enabled=False):
            parts = []
            if matrices:
                updates = [LowRankUpdate(*m.factors(), m.scale) for m in matrices]
                parts.append(low_rank_square(updates))
            if anchors.parameters:
                parts.append(squared_distance(anchors.parameters, anchors.values))
            total = torch.stack(parts).sum()
        return Loss(total, {"distance": Mean(float(total.detach()), 1.0)})

    def descend(factor: float) -> Tensor:
        with torch.autocast(subject.device.type, enabled=False):
            parts = descend_matrices_([LowRankUpdate(*m.factors(), m.scale) for m in matrices], factor)
            if anchors.parameters:
                parts.append(descend_distance_(anchors.parameters, anchors.values, factor))
            return torch.stack(parts).sum()

    copies = (
        f"copies of them take {megabytes(anchors.bytes, 1)}" if anchors.names else "no copy of any weight is needed"
    )
    what = f"`l2_sp` at weight {config.weight:g} holds {held(subject)} near where they begin; {copies}"
    term = Term("l2_sp", config.weight, one, loss, once=True, descend=descend)
    return Made((term,), notes=(note("l2_sp", what),))
