"""What the forward pass keeps for the backward pass, moved to the host's memory in between."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

LARGE = 1 << 20
"""Bytes from which moving a tensor is worth its two copies."""

Kept = tuple[torch.device, Tensor]


class Offload(saved_tensors_hooks):
    """A context for the forward pass, as `torch.autograd.graph.save_on_cpu`, for large activations only.

    Weights stay where they are: the backward pass reads them again and they are there anyway. Copies run in the order
    of the device's own stream, to and from memory that the device can reach by itself, so nothing waits and a tensor
    is overwritten only after it has been copied.

    Args:
        weights: The model's parameters and buffers.
        large: Bytes from which a tensor is moved.
        pin: Whether host memory is pinned; only a GPU can do that.
    """

    def __init__(self, weights: Iterable[Tensor], large: int = LARGE, *, pin: bool = True) -> None:
        storages = {tensor.untyped_storage().data_ptr() for tensor in weights}

        def pack(tensor: Tensor) -> Tensor | Kept:
            moved = tensor.nbytes >= large and tensor.layout == torch.strided
            if not moved or tensor.untyped_storage().data_ptr() in storages:
                return tensor
            place = torch.empty(tensor.shape, dtype=tensor.dtype, layout=tensor.layout, pin_memory=pin)
            place.copy_(tensor, non_blocking=pin)
            return tensor.device, place

        def unpack(kept: Tensor | Kept) -> Tensor:
            return kept if isinstance(kept, Tensor) else kept[1].to(kept[0], non_blocking=pin)

        super().__init__(pack, unpack)
