"""The model of a run as shapes: quantised, with adapters and head, fused and checkpointed as the run will be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from burnish.adapters.attach import Attached, attach
from burnish.adapters.base import MethodConfig
from burnish.adapters.lora import projection_of
from burnish.core.types import Context
from burnish.models.classifier import Classifier, PoolingName, drop_idle_pooler
from burnish.models.config import QuantizationConfig
from burnish.models.eight_bits import round_maps
from burnish.models.forward import assume_packing
from burnish.models.frozen import multiplied
from burnish.models.fuse import fuse
from burnish.models.head import head_of
from burnish.models.quantize import quantize_
from burnish.models.recompute import checkpoint_activations
from burnish.objectives.context import ModelContext
from burnish.plan.ledger import faked_, new_mode
from burnish.plan.sizes import on_shapes, plainly

Checkpointing = bool | Literal["selective"]


@dataclass(frozen=True)
class Numbers:
    """The number formats of a run: of the products, of the base in memory, whether products are cast on the fly, and
    whether frozen matrices multiply in 8 bits."""

    compute: torch.dtype
    base: torch.dtype
    autocast: bool = False
    eight: bool = False


@dataclass
class Shadow:
    """A model of fake tensors, ready for a forward and a backward pass.

    Attributes:
        model: The model with its adapters attached.
        attached: The adapters.
        classifier: The head of a task, or None.
        numbers: Its formats.
        stored: Bytes of the base's parameters as they lie in memory, codes and constants of quantised ones included.
        packed: Whether rows can be packed.
        rounded: Bytes of frozen matrices in 8 bits beside it.
    """

    model: PreTrainedModel
    attached: Attached
    classifier: Classifier | None
    numbers: Numbers
    stored: int
    packed: bool
    rounded: int = 0

    @property
    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that are trained."""
        return self.attached.trainable() + (self.classifier.named() if self.classifier is not None else [])

    def context(self) -> Context:
        """A view of the model for one micro-batch."""
        if self.classifier is not None:
            return ModelContext(self.model, classifier=self.classifier)
        return ModelContext(self.model, head_of(self.model))


def shadow_of(
    model: PreTrainedModel,
    adapters: Sequence[MethodConfig],
    numbers: Numbers,
    *,
    quantization: QuantizationConfig | None = None,
    outputs: int = 0,
    pooling: PoolingName = "mean",
    packed: bool | None = None,
    checkpointing: Checkpointing = False,
) -> Shadow:
    """Make a model's shapes what a run will make of its weights.

    Args:
        model: On the meta device; it is changed in place.
        adapters: The entries of `adapter`.
        numbers: The formats of the run.
        quantization: Weights of 4 bits.
        outputs: Numbers of a new head; 0 without one.
        pooling: What the head reads.
        packed: Whether rows are packed; where that is possible if None.
        checkpointing: `train.gradient_checkpointing`.

    Raises:
        UserError: A method refuses the model, or cannot be built without weights.
    """
    if outputs:
        drop_idle_pooler(model, pooling)
    packs = assume_packing(model) is not None
    if quantization is not None:
        quantize_(model, quantization, numbers.base, shapes=True)
    else:
        for parameter in model.parameters():
            parameter.requires_grad_(False)
            parameter.data = parameter.data.to(numbers.base)
    stored = stored_bytes(model)
    classifier = None
    if outputs:
        labels = [str(number) for number in range(outputs)]
        classifier = Classifier(labels, model.config.get_text_config().hidden_size, pooling)
    plain = [plainly(config) for config in adapters]
    attached = on_shapes(model, lambda: attach(model, plain))
    mode = new_mode()
    faked_(model, mode)
    if classifier is not None:
        faked_(classifier, mode)
    wanted = packs if packed is None else packed and packs
    with autocast(numbers):
        if wanted:
            fuse(model, projection_of, proved=False)
    hosts = multiplied(model, classifies=classifier is not None) if numbers.eight and wanted else []
    rounded = round_maps(hosts)
    if checkpointing:
        checkpoint_activations(model, selective=checkpointing == "selective")
    return Shadow(model, attached, classifier, numbers, stored, wanted, rounded)


def autocast(numbers: Numbers) -> Any:
    """The number-format region of a forward pass."""
    return torch.autocast("cpu", dtype=numbers.compute, enabled=numbers.autocast)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and buffers, each storage once; of a quantised weight with its constants."""
    found: dict[int, int] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        state: Any = getattr(tensor, "quant_state", None)
        inner = getattr(state, "state2", None)
        extra = [] if state is None else [state.absmax, state.code, state.offset]
        extra += [] if inner is None else [inner.absmax, inner.code]  # the library makes tables for every map anew
        for part in (tensor, *(one for one in extra if one is not None)):
            found[part.untyped_storage()._cdata] = part.untyped_storage().nbytes()
    return sum(found.values())
