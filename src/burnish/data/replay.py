"""Replayed rows as tokens, beside those of the task and never among them; and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from burnish.core.types import Batch
from burnish.data.batches import Layout, collate
from burnish.data.config import ReplayConfig
from burnish.data.mixing import Mix, Part
from burnish.data.names import RowNames
from burnish.data.table import TokenTable
from burnish.data.writer import Shelf

SOURCE = "replay"
"""The source of a micro-batch of replayed rows, and the name of the term that reads them."""
_ALL = 1 << 62


@dataclass(frozen=True)
class ReplayRows:
    """The rows that a run replays.

    Attributes:
        config: What the recipe says.
        table: All of them.
        parts: Where they come from.
        summary: Parts and counts as JSON, for `data.json`.
    """

    config: ReplayConfig
    table: TokenTable
    parts: tuple[Part, ...]
    summary: dict[str, Any]

    def may_cut(self, row: int, length: int) -> bool:
        """Whether something is learnt of a row cut to so many tokens; pairs and labelled rows are left whole."""
        return not self.table.is_seq2seq and not self.table.has_head and bool(self.table.row(row)[1][:length].any())


def joined(tables: Sequence[TokenTable]) -> TokenTable:
    """One table of several, one behind the other."""
    writer, files = Shelf(Path("in-memory"), _ALL).writer("replay"), dict[str, int]()
    for table in tables:
        named = replace(table, ids=RowNames.of(list(table.ids), files))
        writer.append(named, np.arange(len(table)))
    return writer.finish(tuple(files))[0]


def collate_replayed(
    rows: ReplayRows,
    mix: Mix,
    places: Sequence[int],
    share: float,
    layout: Layout,
    pad_id: int,
    *,
    decoder_start_id: int | None = None,
    tasks: bool = False,
) -> Batch:
    """The tensors of one micro-batch of replayed rows.

    Args:
        rows: All replayed rows.
        mix: Which of them stand where.
        places: [N] places in the mix.
        share: The weight of its tokens.
        layout: As of ``collate``.
        pad_id: Token that fills up.
        decoder_start_id: First token of an encoder-decoder's decoder.
        tasks: Whether rows of this job name a task; those that are replayed have none, but for labelled ones.
    """
    chosen = [int(mix.rows[place]) for place in places]
    lengths = [int(mix.lengths[place]) for place in places]
    if any(length < rows.table.lengths[row] for row, length in zip(chosen, lengths, strict=True)):
        table, numbers = shortened(rows.table, chosen, lengths), list(range(len(chosen)))
    else:
        table, numbers = rows.table, chosen
    batch = collate(table, numbers, layout, pad_id, decoder_start_id=decoder_start_id)
    batch["row_ids"] = tuple(chosen)
    batch["source"] = SOURCE
    batch["weights"] = torch.full(batch["labels"].shape, share)
    if tasks and "tasks" not in batch:
        batch["tasks"] = (None,) * len(chosen)
    return batch


def shortened(table: TokenTable, rows: Sequence[int], lengths: Sequence[int]) -> TokenTable:
    """The table of some rows, each cut to a length at its end."""
    taken = table.take(rows)
    kept = np.concatenate([np.arange(start, start + n) for start, n in zip(taken.offsets, lengths, strict=False)])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return replace(taken, input_ids=taken.input_ids[kept], trained=taken.trained[kept], offsets=offsets)
