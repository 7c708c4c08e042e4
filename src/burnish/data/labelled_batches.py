"""Batches of rows with one class each; gathered as a whole, with no loop over rows. Shapes: B rows, T tokens."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.types import Batch
from burnish.data.table import TokenTable

Numbers = NDArray[np.int64]


def collate_labelled(table: TokenTable, numbers: tuple[int, ...], *, packed: bool, pad_id: int) -> Batch:
    """The tensors of one micro-batch of labelled rows; ``labels`` is [B], also of a pack, which the model sees as one.

    Args:
        table: The rows.
        numbers: Which of them.
        packed: Whether they lie end to end; else they are padded on the right.
        pad_id: Token that fills up.
    """
    rows = np.asarray(numbers, dtype=np.int64)
    starts = table.offsets[rows]
    sizes = table.offsets[rows + 1] - starts
    batch = (_packed if packed else _padded)(table, rows, starts, sizes, pad_id)
    batch["labels"] = _tensor(table.labels[rows])
    batch["row_ids"] = numbers
    return batch


def _packed(table: TokenTable, rows: Numbers, starts: Numbers, sizes: Numbers, pad_id: int) -> Batch:
    owners = np.repeat(np.arange(len(rows)), sizes)
    positions = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    batch = Batch(
        input_ids=_tensor(table.input_ids[starts[owners] + positions][None]),
        position_ids=_tensor(positions[None]),
        segment_ids=_tensor(owners[None]),
        segment_lengths=tuple(sizes.tolist()),
    )
    seconds = table.prompt_lengths[rows]
    if (seconds < sizes).any():
        batch["token_type_ids"] = _tensor((positions >= seconds[owners])[None])
    return batch


def _padded(table: TokenTable, rows: Numbers, starts: Numbers, sizes: Numbers, pad_id: int) -> Batch:
    positions = np.arange(int(sizes.max()))
    real = positions < sizes[:, None]
    places = np.where(real, starts[:, None] + positions, 0)
    batch = Batch(
        input_ids=_tensor(np.where(real, table.input_ids[places], pad_id)),
        position_ids=_tensor(np.where(real, positions, 0)),
        segment_ids=_tensor(np.where(real, np.arange(len(rows))[:, None], -1)),
        attention_mask=_tensor(real),
    )
    seconds = table.prompt_lengths[rows]
    if (seconds < sizes).any():
        batch["token_type_ids"] = _tensor((positions >= seconds[:, None]) & real)
    return batch


def _tensor(array: NDArray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
