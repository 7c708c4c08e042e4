"""Batches of rows that a head learns; gathered as a whole, with no loop over rows. Shapes: B rows, T tokens."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.types import Batch
from burnish.data.table import TokenTable

Numbers = NDArray[np.int64]
IGNORED = -100


def collate_labelled(table: TokenTable, numbers: tuple[int, ...], *, packed: bool, pad_id: int) -> Batch:
    """The tensors of one micro-batch of rows that a head learns.

    ``labels`` is [B], the classes of the rows, also of a pack, which the model sees as one; of a token classification
    it is shaped as the tokens, -100 where there is nothing to learn; of numbers it is [B, W] in fp32. Where rows are
    pairs, the second texts stand behind all first ones as B more rows.

    Args:
        table: The rows.
        numbers: Which of them.
        packed: Whether they lie end to end; else they are padded on the right.
        pad_id: Token that fills up.
    """
    rows = np.asarray(numbers, dtype=np.int64)
    starts = table.offsets[rows]
    sizes = table.offsets[rows + 1] - starts
    if table.is_seq2seq:
        return _pairs(table, numbers, packed=packed, pad_id=pad_id)
    batch = _laid(table.input_ids, starts, sizes, table.prompt_lengths[rows], packed=packed, pad_id=pad_id)
    if len(table.token_labels):
        laid = _laid(table.token_labels, starts, sizes, sizes, packed=packed, pad_id=IGNORED)
        batch["labels"] = laid["input_ids"]
    elif len(table.values):
        batch["labels"] = torch.from_numpy(table.numbers(rows).astype(np.float32))
    else:
        batch["labels"] = _tensor(table.labels[rows])
    batch["row_ids"] = numbers
    return batch


def _pairs(table: TokenTable, numbers: tuple[int, ...], *, packed: bool, pad_id: int) -> Batch:
    """Both texts of each pair, as 2 B rows."""
    parts = [table.row(r)[0] for r in numbers] + [table.target(r) for r in numbers]
    sizes = np.asarray([len(p) for p in parts], dtype=np.int64)
    batch = _laid(np.concatenate(parts), np.cumsum(sizes) - sizes, sizes, sizes, packed=packed, pad_id=pad_id)
    batch["labels"] = _tensor(table.labels[list(numbers)])
    batch["row_ids"] = numbers
    return batch


def _laid(
    tokens: NDArray[np.int32],
    starts: Numbers,
    sizes: Numbers,
    seconds: NDArray[np.integer],
    *,
    packed: bool,
    pad_id: int,
) -> Batch:
    """Stretches of tokens as a batch; ``seconds`` says where in each its second token type begins."""
    return (_packed if packed else _padded)(tokens, starts, sizes, seconds, pad_id)


def _packed(
    tokens: NDArray[np.int32], starts: Numbers, sizes: Numbers, seconds: NDArray[np.integer], pad_id: int
) -> Batch:
    owners = np.repeat(np.arange(len(sizes)), sizes)
    positions = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    batch = Batch(
        input_ids=_tensor(tokens[starts[owners] + positions][None]),
        position_ids=_tensor(positions[None]),
        segment_ids=_tensor(owners[None]),
        segment_lengths=tuple(sizes.tolist()),
    )
    if (seconds < sizes).any():
        batch["token_type_ids"] = _tensor((positions >= seconds[owners])[None])
    return batch


def _padded(
    tokens: NDArray[np.int32], starts: Numbers, sizes: Numbers, seconds: NDArray[np.integer], pad_id: int
) -> Batch:
    positions = np.arange(int(sizes.max()))
    real = positions < sizes[:, None]
    places = np.where(real, starts[:, None] + positions, 0)
    batch = Batch(
        input_ids=_tensor(np.where(real, tokens[places], pad_id)),
        position_ids=_tensor(np.where(real, positions, 0)),
        segment_ids=_tensor(np.where(real, np.arange(len(sizes))[:, None], -1)),
        attention_mask=_tensor(real),
    )
    if (seconds < sizes).any():
        batch["token_type_ids"] = _tensor((positions >= seconds[:, None]) & real)
    return batch


def _tensor(array: NDArray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
