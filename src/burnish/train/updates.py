"""The rows of each update as a pure function of the step, so that resuming needs nothing but the step's number."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.data.batches import BatchConfig, Layout, epoch_order, micro_batches
from burnish.train.distributed.shares import Share


class Steps(Protocol):
    """What the loop asks of its micro-batches."""

    def __len__(self) -> int:
        """How many updates there are."""

    def __getitem__(self, step: int) -> list[Batch]:
        """The micro-batches of one."""

    def epoch(self, step: int) -> float:
        """Epochs done after ``step`` updates."""

    def heaviest(self) -> Batch:
        """The micro-batch with the most places."""

    def samples(self, step: int) -> dict[str, Batch]:
        """A micro-batch of one row for each source of an update, by the source's name."""


class Updates:
    """Micro-batches by update.

    Args:
        lengths: Tokens of each training row.
        batch_size: Rows per update.
        seed: Seed of the order; each epoch has its own.
        batches: The token budget of a micro-batch.
        layout: How an update is cut.
        accumulation: Exact number of micro-batches per update, or None.
        collate: From row numbers to a batch.
        num_epochs: Passes over the rows.
        max_steps: Updates in total, in place of ``num_epochs``.
        shuffle: Whether each epoch has a new order.
        share: Which rows of an update are this process's.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        batch_size: int,
        *,
        seed: int,
        batches: BatchConfig,
        layout: Layout,
        collate: Callable[[Sequence[int]], Batch],
        accumulation: int | None = None,
        num_epochs: float = 1.0,
        max_steps: int | None = None,
        shuffle: bool = True,
        share: Share | None = None,
    ) -> None:
        self.share = share or Share()
        self.lengths, self.batch_size, self.seed, self.batches = lengths, batch_size, seed, batches
        self.layout = layout
        self.collate, self.accumulation, self.shuffle = collate, accumulation, shuffle
        self.steps_per_epoch = math.ceil(len(lengths) / batch_size)
        # round() first: 0.1 * 30 is 3.0000000000000004 and must not become 4
        self.total_steps = max_steps or math.ceil(round(num_epochs * self.steps_per_epoch, 9))
        if accumulation and accumulation > batch_size:
            raise UserError(
                f"{accumulation} micro-batches cannot be cut from {batch_size} rows",
                where="train.gradient_accumulation_steps",
                fix="raise `train.batch_size` (rows per update) or lower the number of micro-batches",
            )
        self._ordered: tuple[int, NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return self.total_steps

    def epoch(self, step: int) -> float:
        """Epochs done after ``step`` updates."""
        return step / self.steps_per_epoch

    def rows(self, step: int) -> NDArray[np.int64]:
        """Row numbers of one update."""
        epoch, index = divmod(step, self.steps_per_epoch)
        return self._order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if self._ordered is None or self._ordered[0] != epoch:
            order = epoch_order(len(self.lengths), seed=self.seed, epoch=epoch, shuffle=self.shuffle)
            self._ordered = (epoch, order)
        return self._ordered[1]

    def __getitem__(self, step: int) -> list[Batch]:
        return [self.collate(micro) for micro in self.cut(step)]

    def cut(self, step: int) -> list[list[int]]:
        """Row numbers of every micro-batch of this process in one update; of a last, small one it may have none."""
        rows = self.share.of(self.rows(step), self.lengths)
        if not len(rows):
            return []
        accumulation = min(self.accumulation, len(rows)) if self.accumulation else None
        return micro_batches(rows, self.lengths, self.batches, accumulation, layout=self.layout)

    def samples(self, step: int) -> dict[str, Batch]:
        """One row of an update, whoever has it."""
        return {"": self.collate([int(self.rows(step)[0])])}

    def heaviest(self) -> Batch:
        """The micro-batch of the first epoch with the most places, padding included.

        Looked for in two updates only, the one with the most tokens and the one with the longest row, so that it costs
        nothing for millions of rows.
        """
        steps = min(self.steps_per_epoch, self.total_steps)
        lengths = self.lengths[self._order(0)[: steps * self.batch_size]]
        starts = np.arange(0, len(lengths), self.batch_size)
        tokens, longest = np.add.reduceat(lengths, starts), np.maximum.reduceat(lengths, starts)
        chosen = {int(np.argmax(tokens)), int(np.argmax(longest))}
        cut = [micro for step in chosen for micro in self.cut(step)]
        return self.collate(max(cut, key=self._places)) if cut else self.samples(min(chosen))[""]

    def sizes(self, multiple: int, looked_at: int = 64) -> int:
        """How many sizes the micro-batches of the first updates have, in steps of so many places; one at least."""
        steps = range(min(looked_at, self.total_steps))
        return max(1, len({-(-self._places(micro)[0] // multiple) for step in steps for micro in self.cut(step)}))

    def _places(self, rows: Sequence[int]) -> tuple[int, int]:
        lengths = self.lengths[list(rows)]
        area = lengths.sum() if self.layout == "packed" else len(rows) * lengths.max()
        return int(area), int(lengths.max())
