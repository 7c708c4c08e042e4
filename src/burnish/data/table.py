"""The token table: every row of a split in a few flat arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from burnish.data.render import Rendered

Ids = NDArray[np.int32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class TokenTable:
    """Rendered rows. N rows, S their tokens together, U the target tokens together.

    Attributes:
        ids: Each row's example, `file:line`.
        input_ids: [S] tokens, row after row; of an encoder-decoder, the encoder's.
        trained: [S] which tokens carry loss; a row's first token never does.
        offsets: [N + 1] where each row begins.
        prompt_lengths: [N] tokens before the last target; of a classification, before the second text of a pair.
        target_ids: [U] an encoder-decoder's targets, else empty.
        target_offsets: [N + 1] where each target begins; all 0 without targets.
        prompts: Prompts that are not the beginning of their row (it was cut), by row.
        labels: [N] numbers of the rows' classes; empty where the task is not a classification.
    """

    ids: tuple[str, ...]
    input_ids: Ids
    trained: Mask
    offsets: NDArray[np.int64]
    prompt_lengths: NDArray[np.int32]
    target_ids: Ids
    target_offsets: NDArray[np.int64]
    prompts: dict[int, Ids] = field(default_factory=dict)
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def build(cls, ids: Sequence[str], rows: Sequence[Rendered]) -> TokenTable:
        """The table of rendered rows.

        Args:
            ids: One name per row.
            rows: The rows, in the same order.
        """
        inputs = [r.input_ids for r in rows]
        targets = [r.target_ids for r in rows]
        apart = {
            i: np.asarray(r.prompt_ids, dtype=np.int32)
            for i, r in enumerate(rows)
            if r.input_ids[: len(r.prompt_ids)] != r.prompt_ids
        }
        return cls(
            ids=tuple(ids),
            input_ids=_flat(inputs, np.int32),
            trained=_flat([r.trained for r in rows], np.bool_),
            offsets=_offsets(inputs),
            prompt_lengths=np.asarray([len(r.prompt_ids) for r in rows], dtype=np.int32),
            target_ids=_flat(targets, np.int32),
            target_offsets=_offsets(targets),
            prompts=apart,
            labels=np.asarray([r.label for r in rows if r.label is not None], dtype=np.int64),
        )

    def __len__(self) -> int:
        return len(self.ids)

    def head(self, count: int) -> TokenTable:
        """The table of the first ``count`` rows; all of them if there are fewer."""
        n = min(count, len(self))
        return TokenTable(
            ids=self.ids[:n],
            input_ids=self.input_ids[: self.offsets[n]],
            trained=self.trained[: self.offsets[n]],
            offsets=self.offsets[: n + 1],
            prompt_lengths=self.prompt_lengths[:n],
            target_ids=self.target_ids[: self.target_offsets[n]],
            target_offsets=self.target_offsets[: n + 1],
            prompts={i: p for i, p in self.prompts.items() if i < n},
            labels=self.labels[:n],
        )

    def row(self, index: int) -> tuple[Ids, Mask]:
        """Tokens of a row, and which of them carry loss."""
        start, end = self.offsets[index], self.offsets[index + 1]
        return self.input_ids[start:end], self.trained[start:end]

    def target(self, index: int) -> Ids:
        """An encoder-decoder's target; empty without one."""
        return self.target_ids[self.target_offsets[index] : self.target_offsets[index + 1]]

    def prompt(self, index: int) -> Ids:
        """What generation is given for a row: everything before its last target."""
        if index in self.prompts:
            return self.prompts[index]
        return self.row(index)[0][: self.prompt_lengths[index]]

    @property
    def is_seq2seq(self) -> bool:
        """Whether the rows are pairs for an encoder-decoder."""
        return len(self.target_ids) > 0

    @property
    def is_labelled(self) -> bool:
        """Whether every row has a class."""
        return len(self.labels) > 0

    @property
    def lengths(self) -> NDArray[np.int64]:
        """[N] tokens of each row, an encoder-decoder's target included."""
        return np.diff(self.offsets) + np.diff(self.target_offsets)

    @property
    def trained_counts(self) -> NDArray[np.int64]:
        """[N] tokens with loss in each row."""
        sums = np.concatenate([[0], np.cumsum(self.trained, dtype=np.int64)])
        return sums[self.offsets[1:]] - sums[self.offsets[:-1]] + np.diff(self.target_offsets)

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
        arrays = [self.input_ids, self.trained, self.offsets, self.target_ids, self.target_offsets]
        for array in [*arrays, self.prompt_lengths, self.labels] if self.is_labelled else arrays:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def _flat(rows: Sequence[Sequence[int]], dtype: type) -> NDArray:  # type: ignore[type-arg]
    return np.fromiter(chain.from_iterable(rows), dtype=dtype, count=sum(map(len, rows)))


def _offsets(rows: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum([len(r) for r in rows], dtype=np.int64)]).astype(np.int64)
