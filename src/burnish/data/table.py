"""The token table: every row of a split in a few flat arrays, in memory or mapped from a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.data.names import RowNames
from burnish.data.render import Rendered

Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]
_ROWS = 1 << 14


@dataclass(frozen=True)
class ArrayKind:
    """How one array of a table grows when another table is put behind it.

    Attributes:
        type: Type of its numbers.
        behind: The array whose length is added to them: they are places in it.
        borders: It has one entry more than there are stretches, and so loses its first one.
    """

    type: np.dtype[Any]
    behind: str = ""
    borders: bool = False


@dataclass(frozen=True)
class TokenTable:
    """Rendered rows. N rows, S their tokens together, U the target tokens together, M rows whose prompt was cut.

    One more array per row is one more field here and one more line in ``ARRAYS``; the writer and the cache follow it.

    Attributes:
        ids: Each row's example, `file:line`.
        input_ids: [S] tokens, row after row; of an encoder-decoder, the encoder's.
        trained: [S] which tokens carry loss; a row's first token never does.
        offsets: [N + 1] where each row begins.
        prompt_lengths: [N] tokens before the last target; of a classification, before the second text of a pair.
        target_ids: [U] an encoder-decoder's targets, else empty.
        target_offsets: [N + 1] where each target begins; all 0 without targets.
        cut_rows: [M] ascending, rows whose prompt is not their beginning, because the row was cut.
        cut_ids: Their prompts, one after the other.
        cut_offsets: [M + 1] where each of these begins.
        labels: [N] numbers of the rows' classes; empty where the task is not a classification.
        token_labels: [S] numbers of the tokens' classes, -100 for none; empty where no tokens are classified.
        values: [N * W] the W numbers of each row that a head learns; empty where there are none.
        tasks: [N] numbers of the rows' tasks, -1 for none; empty where no source names one.
        task_names: The tasks by number.
    """

    ids: RowNames
    input_ids: Ids
    trained: Mask
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]
    target_ids: Ids
    target_offsets: NDArray[np.int64]
    cut_rows: NDArray[np.int64]
    cut_ids: Ids
    cut_offsets: NDArray[np.int64]
    labels: NDArray[np.int64]
    token_labels: NDArray[np.int32]
    values: NDArray[np.float64]
    tasks: NDArray[np.int16]
    task_names: tuple[str, ...] = ()

    @classmethod
    def build(
        cls,
        ids: Sequence[str],
        rows: Sequence[Rendered],
        tasks: Sequence[str | None] = (),
        task_names: tuple[str, ...] = (),
    ) -> TokenTable:
        """The table of rendered rows.

        Args:
            ids: One name per row.
            rows: The rows, in the same order.
            tasks: The task of each row, where there are tasks.
            task_names: All tasks.
        """
        numbers = {name: number for number, name in enumerate(task_names)}
        inputs = [r.input_ids for r in rows]
        targets = [r.target_ids for r in rows]
        cut = [i for i, r in enumerate(rows) if r.truncated and r.input_ids[: len(r.prompt_ids)] != r.prompt_ids]
        prompts = [rows[i].prompt_ids for i in cut]
        return cls(
            ids=ids if isinstance(ids, RowNames) else RowNames.of(ids),
            input_ids=_flat(inputs, np.int32),
            trained=_flat([r.trained for r in rows], np.bool_),
            offsets=_offsets(inputs),
            prompt_lengths=np.asarray([len(r.prompt_ids) for r in rows], dtype=np.int32),
            target_ids=_flat(targets, np.int32),
            target_offsets=_offsets(targets),
            cut_rows=np.asarray(cut, dtype=np.int64),
            cut_ids=_flat(prompts, np.int32),
            cut_offsets=_offsets(prompts),
            labels=np.asarray([r.label for r in rows if r.label is not None], dtype=np.int64),
            token_labels=_flat([r.token_labels for r in rows], np.int32),
            values=_flat([r.values for r in rows], np.float64),
            tasks=np.asarray([numbers[t] if t is not None else -1 for t in tasks if numbers], dtype=np.int16),
            task_names=task_names,
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def head(self, count: int) -> TokenTable:
        """The table of the first ``count`` rows; all of them if there are fewer."""
        return self.between(0, min(count, len(self)))

    def between(self, start: int, end: int) -> TokenTable:
        """The table of a stretch of rows; its numbers are views, but for those of the borders."""
        own = slice(start, end)
        tokens = slice(self.offsets[start], self.offsets[end])
        first, last = (int(place) for place in np.searchsorted(self.cut_rows, (start, end)))
        return TokenTable(
            ids=self.ids[own],
            input_ids=self.input_ids[tokens],
            trained=self.trained[tokens],
            offsets=_rebased(self.offsets[start : end + 1]),
            prompt_lengths=self.prompt_lengths[own],
            target_ids=self.target_ids[self.target_offsets[start] : self.target_offsets[end]],
            target_offsets=_rebased(self.target_offsets[start : end + 1]),
            cut_rows=self.cut_rows[first:last] - start,
            cut_ids=self.cut_ids[self.cut_offsets[first] : self.cut_offsets[last]],
            cut_offsets=_rebased(self.cut_offsets[first : last + 1]),
            labels=self.labels[own],
            token_labels=self.token_labels[tokens],
            values=self.values[start * self.n_values : end * self.n_values],
            tasks=self.tasks[own],
            task_names=self.task_names,
        )

    def take(self, rows: Sequence[int]) -> TokenTable:
        """The table of some rows, in the order given; meant for a few."""
        taken, values = [], self.numbers(np.asarray(rows, dtype=np.int64)) if len(self.values) else None
        for number, row in enumerate(rows):
            ids, trained = self.row(row)
            prompt, target = self.prompt(row).tolist(), self.target(row).tolist()
            longer = len(ids) + len(target) + 1  # as if cut, so that a prompt that is not the beginning is kept
            taken.append(
                Rendered(
                    ids.tolist(),
                    trained.tolist(),
                    prompt,
                    target,
                    longer,
                    label=int(self.labels[row]) if self.is_labelled else None,
                    token_labels=self.token_labels[self.offsets[row] : self.offsets[row + 1]].tolist(),
                    values=values[number].tolist() if values is not None else (),
                )
            )
        return TokenTable.build([self.ids[row] for row in rows], taken, self.tasks_of(rows), self.task_names)

    def row(self, index: int) -> tuple[Ids, Mask]:
        """Tokens of a row, and which of them carry loss."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.input_ids[start:end], self.trained[start:end]

    def target(self, index: int) -> Ids:
        """An encoder-decoder's target; empty without one."""
        return self.target_ids[self.target_offsets[index] : self.target_offsets[index + 1]]

    def prompt(self, index: int) -> Ids:
        """What generation is given for a row: everything before its last target."""
        place = int(np.searchsorted(self.cut_rows, index))
        if place < len(self.cut_rows) and self.cut_rows[place] == index:
            return self.cut_ids[self.cut_offsets[place] : self.cut_offsets[place + 1]]
        return self.row(index)[0][: self.prompt_lengths[index]]

    def tasks_of(self, rows: Sequence[int]) -> tuple[str | None, ...]:
        """The tasks of some rows; empty where no source names one."""
        if not len(self.tasks):
            return ()
        return tuple(self.task_names[number] if number >= 0 else None for number in self.tasks[list(rows)])

    @property
    def is_seq2seq(self) -> bool:
        """Whether the rows are pairs for an encoder-decoder."""
        return len(self.target_ids) > 0

    @property
    def is_labelled(self) -> bool:
        """Whether every row has a class."""
        return len(self.labels) > 0

    @property
    def n_values(self) -> int:
        """W, the numbers that a head learns of each row; 0 where there are none."""
        return len(self.values) // max(1, len(self))

    @property
    def has_head(self) -> bool:
        """Whether a head beside the model learns the rows: classes, tags, places or numbers."""
        return bool(len(self.labels) or len(self.token_labels) or len(self.values))

    def numbers(self, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """[R, W] the numbers of some rows."""
        return self.values.reshape(len(self), -1)[rows]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row, an encoder-decoder's target included."""
        return self.lengths_of(0, len(self))

    def lengths_of(self, start: int, end: int) -> NDArray[np.int64]:
        """Tokens of the rows of a stretch."""
        here = slice(start, end + 1)
        return np.diff(self.offsets[here]) + np.diff(self.target_offsets[here])

    @property
    def trained_counts(self) -> NDArray[np.int64]:
        """[N] tokens with loss in each row."""
        counts = np.diff(self.target_offsets)
        for start in range(0, len(self), _ROWS):  # a stretch at a time: running sums of all take 8 bytes a token
            borders = self.offsets[start : start + _ROWS + 1]
            sums = np.concatenate([[0], np.cumsum(self.trained[borders[0] : borders[-1]], dtype=np.int64)])
            counts[start : start + _ROWS] += np.diff(sums[borders - borders[0]])
        return counts

    @property
    def n_tokens(self) -> int:
        """Tokens of all rows, targets included."""
        return len(self.input_ids) + len(self.target_ids)

    @property
    def n_trained(self) -> int:
        """Tokens with loss."""
        return int(self.trained.sum()) + len(self.target_ids)

    def content_hash(self) -> str:
        """SHA-256 of tokens, mask, classes and their borders, in hexadecimal; equal tables train equally."""
        digest = hashlib.sha256()
        arrays: list[NDArray[Any]] = [self.input_ids, self.trained, self.offsets, self.target_ids, self.target_offsets]
        learnt = [a for a in (self.labels, self.token_labels, self.values) if len(a)]
        arrays += [self.prompt_lengths, *learnt] if learnt else []
        for array in [*arrays, self.tasks] if len(self.tasks) else arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


_INT32, _INT64 = np.dtype(np.int32), np.dtype(np.int64)
ARRAYS: dict[str, ArrayKind] = {
    "input_ids": ArrayKind(_INT32),
    "trained": ArrayKind(np.dtype(np.bool_)),
    "offsets": ArrayKind(_INT64, "input_ids", borders=True),
    "prompt_lengths": ArrayKind(_INT32),
    "target_ids": ArrayKind(_INT32),
    "target_offsets": ArrayKind(_INT64, "target_ids", borders=True),
    "cut_rows": ArrayKind(_INT64, "prompt_lengths"),
    "cut_ids": ArrayKind(_INT32),
    "cut_offsets": ArrayKind(_INT64, "cut_ids", borders=True),
    "labels": ArrayKind(_INT64),
    "token_labels": ArrayKind(_INT32),
    "values": ArrayKind(np.dtype(np.float64)),
    "tasks": ArrayKind(np.dtype(np.int16)),
}
"""The arrays of a table by name."""


def _flat(rows: Sequence[Sequence[float]], dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.fromiter(chain.from_iterable(rows), dtype=dtype, count=sum(map(len, rows)))


def _rebased(borders: NDArray[np.int64]) -> NDArray[np.int64]:
    return borders - borders[0] if borders[0] else borders


def _offsets(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(r) for r in rows], dtype=np.int64)]).astype(np.int64)
