"""Which positions and vectors of a micro-batch are compared. Shapes: B rows, T tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from burnish.core.types import Batch
from burnish.models.classifier import PoolingName


def places(batch: Batch, where: str) -> Tensor:
    """Places [B, T] at which words are compared: those that predict a trained token, or all that are no padding."""
    if where == "trained":
        return batch["labels"] != -100
    seq2seq = "decoder_input_ids" in batch
    return real(batch["decoder_input_ids" if seq2seq else "input_ids"], batch.get(_MASKS[seq2seq]))


_MASKS = {True: "decoder_attention_mask", False: "attention_mask"}


def real(ids: Tensor, mask: object) -> Tensor:
    """Places [B, T] that are no padding; in a pack all are none."""
    return mask.bool() if isinstance(mask, Tensor) else torch.ones_like(ids, dtype=torch.bool)


def vectors(batch: Batch, how: PoolingName) -> Tensor:
    """How many vectors a head reads of a micro-batch, []: one of each row, or of each real token."""
    if how == "tokens":
        return real(batch["input_ids"], batch.get("attention_mask")).sum()
    return torch.tensor(len(batch["segment_lengths"]) if "segment_lengths" in batch else len(batch["input_ids"]))
