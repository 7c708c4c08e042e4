"""Which matrices of a model a run multiplies and does not train, where its own operations do the multiplying."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from burnish.models.fuse import fused_maps
from burnish.models.head import head_of


def multiplied(model: PreTrainedModel, *, classifies: bool) -> list[nn.Module]:
    """The frozen linear layers of fused layers, and of a head over the vocabulary.

    Args:
        model: With its adapters attached and its layers fused.
        classifies: Whether another head takes the place of the model's own.
    """
    found: list[nn.Module] = [host for host in fused_maps(model) if not host.weight.requires_grad]
    head = None if classifies or not found else head_of(model)
    if head is not None and head.is_plain() and not head.weight.requires_grad:
        found.append(head.projection)
    return found
