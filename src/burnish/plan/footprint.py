"""What a run holds in memory, part by part, found by running its code on shapes (`plan.ledger`).

A forward and a backward pass of the heaviest micro-batch are traced. The rest is counted: AdamW's two moments are 8
bytes for each trained number in fp32; in 8 bits they are 2, and their scales 8 bytes for each block of 256.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from burnish.core.types import Batch, Term
from burnish.ops.fingerprint import PIECE
from burnish.optim.config import OptimizerName
from burnish.plan.ledger import Ledger
from burnish.plan.shadow import Shadow, autocast, stored_bytes

SMALL_STATE, STATE_BLOCK = 4096, 256
"""Tensors of fewer numbers keep fp32 moments under an 8-bit optimiser; and numbers that share a scale there."""


@dataclass(frozen=True)
class Footprint:
    """Bytes of a run's parts, for one process that holds all of it.

    Attributes:
        weights: The base as it lies in memory.
        adapters: What is trained beside it: adapters and a new head.
        gradients: Of everything that is trained, fp32.
        optimizer: AdamW's moments.
        activations: What the forward pass has kept when it ends, for the backward pass.
        working: The most that lives beside these during forward and backward: temporaries, the loss, and gradients as
            they come, or as an earlier micro-batch left them.
        fingerprint: What the check that every tensor moves holds beside weights and moments, for a moment.
        trained: How many numbers are trained.
        evaluation: The most that lives while rows are scored and answers generated (`forecast.scoring`).
        trained_base: Bytes of ``weights`` that are trained.
        largest: Bytes of the largest layer's weights, which an engine that shards gathers.
        held: What holds the model near its original: a frozen copy of it, copies of trained weights, importances.
        rounded: Frozen matrices in 8 bits, beside the base.
        products: How many products of half-precision numbers of a micro-batch differ in shape; no bytes.
    """

    weights: int
    adapters: int
    gradients: int
    optimizer: int
    activations: int
    working: int
    fingerprint: int
    trained: int
    evaluation: int = 0
    trained_base: int = 0
    largest: int = 0
    held: int = 0
    rounded: int = 0
    products: int = 0

    @property
    def kept(self) -> int:
        """What is there through the whole of the training."""
        return self.weights + self.adapters + self.optimizer + self.held + self.rounded

    def scaled_between(self, other: Footprint, layers: tuple[int, int], wanted: int) -> Footprint:
        """The footprint at another number of equal layers, on the line through this one and another.

        Every part is a sum over layers and what is there once, so that two numbers of layers tell both.
        """
        first, second = layers
        values = {}
        for field in fields(self):
            a, b = getattr(self, field.name), getattr(other, field.name)
            values[field.name] = max(a, b) if a == b else a + (b - a) * (wanted - first) // (second - first)
        return replace(self, **values)


def footprint(
    shadow: Shadow,
    batch: Batch,
    terms: Sequence[Term],
    *,
    optimizer: OptimizerName = "adamw",
    accumulates: bool = False,
) -> Footprint:
    """Trace a micro-batch through a shadow and count what a run of it holds.

    Args:
        shadow: The model.
        batch: The heaviest micro-batch, of real whole numbers.
        terms: The objective.
        optimizer: How moments are kept.
        accumulates: Whether gradients of an earlier micro-batch are there already.
    """
    named = shadow.trainable
    base = {id(p) for p in shadow.model.parameters()} - {id(p) for p in adapter_parameters(shadow)}
    own = [p for _, p in named if id(p) not in base]
    gradients = sum(p.numel() * p.element_size() for _, p in named)
    kept, peak, products = _trained(shadow, batch, terms, accumulates)
    lived = gradients if accumulates else 0
    return Footprint(
        weights=shadow.stored,
        adapters=sum(p.numel() * p.element_size() for p in own),
        gradients=gradients,
        optimizer=sum(optimizer_bytes(p.numel(), optimizer) for _, p in named),
        activations=kept - lived,
        working=max(0, peak - (kept - lived)),  # gradients of earlier micro-batches lie beside the activations
        fingerprint=max((16 * min(p.numel(), PIECE) for _, p in named), default=0),
        trained=sum(p.numel() for _, p in named),
        trained_base=sum(p.numel() * p.element_size() for _, p in named if id(p) in base),
        largest=_largest_layer(shadow.model),
        rounded=shadow.rounded,
        products=products,
    )


def optimizer_bytes(numbers: int, kind: OptimizerName) -> int:
    """Bytes of AdamW's state for a tensor: moments, their scales, and the count of updates."""
    if kind == "adamw":
        return 8 * numbers + 4
    if numbers < SMALL_STATE:
        return 8 * numbers
    return 2 * numbers + 2 * 4 * math.ceil(numbers / STATE_BLOCK)


def adapter_parameters(shadow: Shadow) -> list[nn.Parameter]:
    """Parameters that the adapters brought."""
    return [p for item in shadow.attached.placed for p in item.adapter.parameters()]


def _trained(shadow: Shadow, batch: Batch, terms: Sequence[Term], accumulates: bool) -> tuple[int, int, int]:
    """Bytes that live after the forward pass, the most that live during forward and backward, and the products."""
    ledger = Ledger()
    ledger.ignore(_tensors(shadow))
    shadow.model.train()
    for _, parameter in shadow.trainable:
        parameter.grad = torch.empty_like(parameter) if accumulates else None
        if parameter.grad is not None:
            ledger.knows(parameter.grad)
    with ledger:
        context = shadow.context()  # it lives until the backward pass is done, as in the loop
        with autocast(shadow.numbers):
            share: torch.Tensor = sum(term.loss(batch, context).total for term in terms)  # type: ignore[assignment]
        kept = ledger.live
        share.backward()  # type: ignore[no-untyped-call]
        del share, context
    for _, parameter in shadow.trainable:
        parameter.grad = None
    exact = _scored_products(shadow, batch, terms) if shadow.rounded else set()
    return kept, ledger.peak, len(ledger.products | exact)


def _scored_products(shadow: Shadow, batch: Batch, terms: Sequence[Term]) -> set[Any]:
    """The products of a forward pass in evaluation mode, where no matrix is multiplied in 8 bits."""
    ledger = Ledger()

    def score() -> None:
        context = shadow.context()
        for term in terms:
            term.loss(batch, context)

    without_gradients(shadow, score, ledger)
    return ledger.products


@torch.no_grad()
def without_gradients(shadow: Shadow, compute: Callable[[], object], ledger: Ledger | None = None) -> int:
    """The most that lives at once during a computation in evaluation mode that keeps nothing for a backward pass."""
    ledger = ledger or Ledger()
    ledger.ignore(_tensors(shadow))
    shadow.model.eval()
    with ledger, autocast(shadow.numbers):
        compute()
    shadow.model.train()
    return ledger.peak


def _tensors(shadow: Shadow) -> list[torch.Tensor]:
    """Every tensor that is there before a forward pass."""
    modules = [shadow.model, *([shadow.classifier] if shadow.classifier is not None else [])]
    found: list[torch.Tensor] = []
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            state = getattr(tensor, "quant_state", None)
            found.append(tensor)
            if state is not None:
                found += [t for t in (state.absmax, state.code, state.offset) if isinstance(t, torch.Tensor)]
                if state.state2 is not None:
                    found += [state.state2.absmax, state.state2.code]
    return found


def _largest_layer(model: nn.Module) -> int:
    """Bytes of the largest member of a list of layers; of the whole model where there is none."""
    layers = [child for m in model.modules() if isinstance(m, nn.ModuleList) for child in m]
    return max((stored_bytes(layer) for layer in layers), default=stored_bytes(model))
