"""The loss on held-out rows: summed row by row, divided once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from burnish.core.types import Batch
from burnish.data.batches import BatchConfig, Layout, collate, micro_batches
from burnish.data.table import TokenTable
from burnish.evaluate.deal import Deal
from burnish.models.forward import hidden_states
from burnish.models.head import Head, head_of
from burnish.models.load import Kind, Loaded, pad_id
from burnish.models.modes import in_evaluation

Progress = Callable[[int], None]
ALONE = Deal()
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}
"""Tokens of a forward pass. On a CPU activations should stay in its caches: 1,024 are a quarter faster than 4,096."""
ENCODER_TOKENS = 4096
"""On a CPU for an encoder with a head, whose layers are narrow: 494 rows a second of MiniLM, with 1,024 tokens 462."""

WINDOW = 1 << 14
"""Rows that are sorted by length and cut into passes at a time, so that what is held does not grow with all rows."""


def batch_tokens(loaded: Loaded) -> int:
    """Tokens of one forward pass of a model where it is."""
    return tokens_on(loaded.model.device.type, loaded.kind)


def tokens_on(device: str, kind: Kind) -> int:
    """Tokens of one forward pass of a kind of model on a kind of device."""
    if device == "cpu" and kind == "encoder":
        return ENCODER_TOKENS
    return BATCH_TOKENS.get(device, BATCH_TOKENS["cuda"])


@dataclass(frozen=True)
class View:
    """How a model is called while it is scored.

    Attributes:
        loaded: Model and tokenizer.
        layout: How rows lie in a batch.
        batch_tokens: Tokens of one forward pass.
        autocast: Makes the number-format region of a forward pass.
        decoder_start_id: First token of an encoder-decoder's decoder.
        deal: Which passes are this process's.
    """

    loaded: Loaded
    layout: Layout
    batch_tokens: int
    autocast: Callable[[], object]
    decoder_start_id: int | None = None
    deal: Deal = ALONE

    def dealt(self, table: TokenTable) -> Iterator[tuple[list[int], bool]]:
        """The rows of this process's forward passes, and whether a pass counts."""
        return self.deal.dealt(self.batches(table))

    def batches(self, table: TokenTable) -> Iterator[list[int]]:
        """The rows of every forward pass, the longest of each window of ``WINDOW`` rows first."""
        config = BatchConfig(micro_batch_tokens=self.batch_tokens)
        for start in range(0, len(table), WINDOW):
            lengths = table.lengths_of(start, start + WINDOW)
            for rows in micro_batches(range(len(lengths)), lengths, config, layout=self.layout):  # type: ignore[arg-type]
                yield [start + row for row in rows] if start else rows

    def collate(self, table: TokenTable, rows: list[int]) -> Batch:
        """The tensors of one forward pass, on the model's device."""
        batch = collate(table, rows, self.layout, pad_id(self.loaded.tokenizer), decoder_start_id=self.decoder_start_id)
        device = self.loaded.model.device
        return {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}  # type: ignore[return-value]


@dataclass(frozen=True)
class RowLosses:
    """Loss of every row.

    Attributes:
        totals: [N] summed negative log-likelihood of each row's labelled tokens, in nats.
        counts: [N] how many they are.
    """

    totals: NDArray[np.float64]
    counts: NDArray[np.float64]

    @property
    def mean(self) -> float:
        """Mean over all labelled tokens."""
        return float(self.totals.sum() / max(1.0, self.counts.sum()))

    @classmethod
    def empty(cls, rows: int) -> RowLosses:
        """Nothing counted yet."""
        return cls(np.zeros(rows), np.zeros(rows))

    def over_all(self, view: View) -> RowLosses:
        """What all processes have counted."""
        return RowLosses(view.deal.added(self.totals), view.deal.added(self.counts))

    def add(self, one: Pass) -> None:
        """Count the rows of one forward pass."""
        labels = one.batch["labels"]
        labelled = labels != -100
        losses = one.head.token_losses(one.hidden[labelled], labels[labelled])
        owners = np.asarray(one.rows)[owners_of(one.batch)[labelled.cpu()].numpy()]
        np.add.at(self.totals, owners, losses.double().cpu().numpy())
        np.add.at(self.counts, owners, 1.0)


def row_losses(view: View, table: TokenTable, progress: Progress | None = None) -> RowLosses:
    """Negative log-likelihood of each row's labelled tokens.

    Args:
        view: The model; it is put into evaluation mode and back.
        table: The rows.
        progress: Told how many rows are done.
    """
    losses = RowLosses.empty(len(table))
    for one in passes(view, table, progress):
        losses.add(one)
    return losses.over_all(view)


@dataclass(frozen=True)
class Pass:
    """One forward pass.

    Attributes:
        rows: Row numbers, in the order in which they lie in the batch.
        batch: Its tensors.
        hidden: [B, T, D] hidden states before the head.
        head: The output projection.
    """

    rows: list[int]
    batch: Batch
    hidden: torch.Tensor
    head: Head

    @property
    def starts(self) -> torch.Tensor:
        """[N] place of each row's first token among the B * T places."""
        if "segment_lengths" in self.batch:
            lengths = torch.tensor(self.batch["segment_lengths"])
            return lengths.cumsum(0) - lengths
        return torch.arange(len(self.rows)) * self.hidden.shape[1]


def passes(view: View, table: TokenTable, progress: Progress | None = None) -> Iterator[Pass]:
    """The forward passes over a table, without gradients and in evaluation mode."""
    model, head, done = view.loaded.model, head_of(view.loaded.model), 0
    with in_evaluation(model):
        for rows, counts in view.dealt(table):
            batch = view.collate(table, rows)
            with torch.no_grad(), view.autocast():  # type: ignore[attr-defined]
                made = Pass(rows, batch, hidden_states(model, batch), head)
                if counts:
                    yield made
            done += len(rows)
            if progress:
                progress(done)


def owners_of(batch: Batch) -> torch.Tensor:
    """Which row of the batch each labelled place belongs to, shaped as ``labels``."""
    if "segment_lengths" in batch:
        return batch["segment_ids"].cpu()
    rows, width = batch["labels"].shape
    return torch.arange(rows)[:, None].expand(rows, width)
