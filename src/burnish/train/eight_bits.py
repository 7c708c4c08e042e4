"""Products of frozen matrices in 8 bits: what training with them asks for, and how far off its gradients are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.types import Batch, Context, Term
from burnish.models.eight_bits import exact_maps, round_maps
from burnish.models.frozen import multiplied
from burnish.models.load import Loaded
from burnish.ops.eight_bits import available
from burnish.train.config import RunConfig
from burnish.train.loop import to_device
from burnish.train.precision import Precision, PrecisionName
from burnish.train.updates import Updates

TOKENS = 256
"""The comparison takes rows of the first update until it has so many tokens."""
LOW, LOWEST = 0.97, 0.9
"""Cosines of rounded and exact gradients below which a run warns, and is refused. Those of bf16 and fp32 have 0.9995 on
SmolLM2, those of int8 and bf16 0.992."""
WHERE = "train.precision"
FIX = "use `train.precision=bf16`"


class Setup(Protocol):
    """What is asked of `train.setup.Setup`."""

    config: RunConfig
    device: torch.device
    precision: Precision
    loaded: Loaded
    fused_layers: int

    @property
    def trainable(self) -> list[tuple[str, nn.Parameter]]: ...
    @property
    def task_terms(self) -> list[Term]: ...
    @property
    def task_updates(self) -> Updates: ...
    def context(self) -> Context: ...


def refuse_impossible_precision(name: PrecisionName, device: torch.device) -> None:
    """Refuse products in 8 bits where there are none, before anything is read.

    Raises:
        UserError: The device is no processor, or one without the instructions.
    """
    if name == "int8" and (device.type != "cpu" or not available()):
        raise UserError(
            "products in 8 bits are for processors with AVX512-VNNI and AVX512-BF16, and a C compiler to build them",
            where=WHERE,
            fix=FIX,
        )


def round_frozen(setup: Setup) -> list[Finding]:
    """Round the matrices that a run multiplies and does not train, and say what that does to its gradients.

    Raises:
        UserError: This run cannot, or gradients would be too far from exact ones.
    """
    hosts = multiplied(setup.loaded.model, classifies=setup.loaded.classifier is not None)
    if not hosts:
        raise UserError(
            "nothing here can multiply in 8 bits: that takes fused layers with frozen weights of 16 or 32 bits "
            f"({setup.fused_layers} layers of this model are fused)",
            where=WHERE, fix=FIX)  # fmt: skip
    exact_loss, exact = _gradients(setup)
    size = round_maps(hosts)
    loss, rounded = _gradients(setup)
    cosine = _cosine(rounded, exact)
    what = (
        f"{len(hosts)} frozen matrices multiply in int8 while training ({size / 2**20:.0f} MiB more): on the first "
        f"rows the loss is {loss:.3f}, exactly {exact_loss:.3f}, and gradients have a cosine of {cosine:.3f} to exact "
        "ones"
    )
    evidence = {"cosine": cosine, "loss": loss, "exact_loss": exact_loss, "matrices": len(hosts), "bytes": size}
    if not cosine >= LOWEST:  # NaN is refused
        exact_maps(hosts)
        raise UserError(f"{what}: too far for training", where=WHERE, fix=FIX)
    if cosine < LOW:
        return [Finding("warning", "train.int8", what, WHERE, fix=FIX, evidence=evidence)]
    return [Finding("note", "train.int8", what, WHERE, evidence=evidence)]


def _gradients(setup: Setup) -> tuple[float, list[Tensor]]:
    """Loss of a few rows in training mode and gradients of what is trained; dropout draws the same each time."""
    batch, model = _first_rows(setup), setup.loaded.model
    was_training = model.training
    model.train()
    trained = [p for _, p in setup.trainable if p.requires_grad]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setup.config.seed)
        with setup.precision.context(setup.device):
            context = setup.context()
            terms = [t for t in setup.task_terms if t.reads(batch)]
            total = sum((t.weight * t.loss(batch, context).total / t.count(batch) for t in terms), torch.zeros(()))
        found = torch.autograd.grad(total, trained, allow_unused=True)
    model.train(was_training)
    return float(total.detach()), [g for g in found if g is not None]


def _first_rows(setup: Setup) -> Batch:
    updates, rows, tokens = setup.task_updates, list[int](), 0
    for number in updates.rows(0):  # those of all processes, so that all come to the same
        if rows and tokens + int(updates.lengths[number]) > TOKENS:
            break
        rows.append(int(number))
        tokens += int(updates.lengths[number])
    return to_device(updates.collate(rows), setup.device)


def _cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    def dot(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
        return sum(float((a.double() * b.double()).sum()) for a, b in zip(left, right, strict=True))

    norms = math.sqrt(dot(one, one) * dot(other, other))
    return dot(one, other) / norms if norms else 1.0
