"""O-LoRA: a new task's updates read other directions than those of earlier tasks (Wang et al., 2023, arXiv:2310.14152).

Shapes: R rank of the new update, R' that of an earlier one, D_in the inputs of a matrix.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from burnish.core.errors import UserError
from burnish.core.types import Batch, Context, Loss, Mean, Term
from burnish.regularizers.base import Made, Matrix, RegularizerConfig, Subject, megabytes, note, one, regularizer


class OLoraConfig(RegularizerConfig):
    """Keep the directions that new LoRA updates read orthogonal to those of earlier runs (Wang et al., 2023).

    The earlier updates stay in use and frozen by being in the weights: merge the earlier run (`burnish merge`) and name
    the merged folder as `model`.
    """

    kind: Literal["o_lora"] = "o_lora"
    """The name of the regularizer."""
    weight: float = Field(0.5, gt=0, allow_inf_nan=False)
    """Factor on the sum of absolute products, over all matrices and earlier runs."""
    earlier: tuple[str, ...] = Field(min_length=1)
    """Runs, or folders of LoRA adapters, of the earlier tasks."""


@regularizer("o_lora", OLoraConfig, zero_at_start=False)
def o_lora(config: OLoraConfig, subject: Subject) -> Made:
    """One penalty,

        L = weight * sum_W sum_earlier sum_jk |(A_earlier A^T)_jk|,

    A [R, D_in] of the update that is trained. The absolute values are those of the authors' code. Deviation: the
    decay of the second factor in their objective is ``train.weight_decay`` here.

    Memory: A of every earlier update.

    Raises:
        UserError: Nothing low-rank is trained, or the earlier updates are of other matrices.
    """
    if not subject.matrices:
        raise UserError(
            "`o_lora` is for low-rank updates, and this run trains none",
            where="regularizers: o_lora",
            fix="use `adapter: lora`, or another regularizer",
        )
    runs = [subject.earlier(path) for path in config.earlier]
    pairs = [(m, found) for m in subject.matrices if (found := _of_earlier(m, runs))]
    if not pairs:
        raise UserError(
            "the earlier runs tuned none of the matrices that this one does, so there is nothing to be orthogonal to",
            where=f"regularizers: o_lora: earlier: {', '.join(config.earlier)}",
            fix=f"use the same `adapter.targets`; this run tunes {subject.matrices[0].name} and others",
        )
    stacked = [(m, torch.cat(found).to(subject.device)) for m, found in pairs]

    def loss(batch: Batch, context: Context) -> Loss:
        with torch.autocast(subject.device.type, enabled=False):
            total = torch.stack([(old @ m.factors()[0].t()).abs().sum() for m, old in stacked]).sum()
        return Loss(total, {"overlap": Mean(float(total.detach()), 1.0)})

    numbers = sum(old.numel() for _, old in stacked)
    what = (
        f"`o_lora` at weight {config.weight:g} keeps updates of {len(stacked)} of {len(subject.matrices)} matrices "
        f"orthogonal to those of {', '.join(config.earlier)}; the earlier factors take {megabytes(numbers)}"
    )
    return Made((Term("o_lora", config.weight, one, loss, once=True),), notes=(note("o_lora", what),))


def _of_earlier(matrix: Matrix, runs: Sequence[Mapping[str, Tensor]]) -> Sequence[Tensor]:
    """A [R', D_in] of every earlier update of this matrix.

    Raises:
        UserError: One is of another size.
    """
    found = [factors[matrix.name] for factors in runs if matrix.name in factors]
    odd = [A for A in found if A.shape[1] != matrix.sides[1]]
    if odd:
        raise UserError(
            f"an earlier update of `{matrix.name}` has {odd[0].shape[1]} inputs, and the matrix here {matrix.sides[1]}",
            where="regularizers: o_lora: earlier",
            fix="name runs of the same base model",
        )
    return [A.float() for A in found]
