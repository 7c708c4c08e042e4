"""Forward passes of a head over rows, and what its answers to them come to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from burnish.core.types import Batch
from burnish.data.example import Example
from burnish.data.kept import JsonWriter, shelved
from burnish.data.labelled import LabelledRenderer
from burnish.data.streams import CHUNK
from burnish.data.table import TokenTable
from burnish.evaluate.classes import head_of, logit_passes
from burnish.evaluate.intervals import Floats
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.ops.units import UNIT_LOSSES

Part = tuple[Mapping[str, Any], Iterable[dict[str, Any]]]
"""Some examples of a result: their part of every column, and their rows."""


@dataclass(frozen=True)
class HeadRows:
    """Rows that a head is asked about.

    Attributes:
        table: The rows as tokens; windows of one example follow one another.
        examples: The example of each row.
        renderer: What made the tokens.
    """

    table: TokenTable
    examples: Sequence[Example]
    renderer: LabelledRenderer

    @cached_property
    def borders(self) -> NDArray[np.int64]:
        """[G + 1] the first row of each of the G examples."""
        file, line = self.table.ids.file, self.table.ids.line
        new = np.flatnonzero((file[1:] != file[:-1]) | (line[1:] != line[:-1])) + 1
        return np.concatenate([[0], new, [len(file)]]).astype(np.int64) if len(file) else np.zeros(1, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.borders) - 1

    def chunks(self) -> Iterator[tuple[list[Example], slice]]:
        """The examples some at a time, with their rows, where each has one."""
        for some in self.groups():
            yield [example for example, _ in some], slice(some[0][1].start, some[-1][1].stop)

    def groups(self) -> Iterator[list[tuple[Example, range]]]:
        """Each example once, with its rows; some at a time."""
        examples, place = iter(self.examples), 0
        for first in range(0, len(self), CHUNK):
            some = []
            for start, end in pairwise(self.borders[first : first + CHUNK + 1].tolist()):
                some.append((next(islice(examples, start - place, None)), range(start, end)))
                place = start + 1
            yield some


@dataclass(frozen=True)
class HeadResult:
    """What a head answered.

    Attributes:
        task: The head's task.
        columns: What the measures are made of, one entry an example.
        rows: Of each example its ``id``, its ``prompt``, the ``target`` that would have been right, as text, and the
            ``answer`` as JSON values. Many of them lie on the disk.
    """

    task: str
    columns: dict[str, Floats]
    rows: Sequence[dict[str, Any]]

    @classmethod
    def of(cls, task: str, parts: Iterable[Part]) -> HeadResult:
        """Of answers that come some at a time, with their part of every column."""
        columns: dict[str, list[Floats]] = {}
        with shelved() as shelf:
            rows = JsonWriter[dict[str, Any]](shelf, "answer")
            for values, answered in parts:
                for name, column in values.items():
                    columns.setdefault(name, []).append(np.asarray(column, dtype=np.float64))
                rows.append(answered)
            return cls(task, {name: np.concatenate(column) for name, column in columns.items()}, rows.finish())


def answered(example: Example, answer: dict[str, Any], target: str, prompt: str | None = None) -> dict[str, Any]:
    """One of the ``rows`` of a result."""
    given = example.prompt_text if prompt is None else prompt
    return {"id": example.id, "prompt": given, "target": target, "answer": answer}


@dataclass(frozen=True)
class HeadPass:
    """One forward pass.

    Attributes:
        rows: Row numbers, in the order in which they lie in the batch.
        batch: Its tensors.
        logits: What the head gave.
    """

    rows: list[int]
    batch: Batch
    logits: Tensor


def head_passes(
    view: View, table: TokenTable, losses: RowLosses | None = None, progress: Progress | None = None
) -> Iterator[HeadPass]:
    """The forward passes over a table, without gradients and in evaluation mode.

    Args:
        view: The model with its head.
        table: The rows.
        losses: Told of the loss of each row.
        progress: Told how many rows are done.

    Raises:
        UserError: The model has no head.
    """
    head = head_of(view.loaded)
    for rows, batch, logits in logit_passes(view, table, progress):
        if losses is not None:
            units, owners = UNIT_LOSSES[head.task](logits.double(), batch)
            places = np.asarray(rows)[owners.cpu().numpy()]
            np.add.at(losses.totals, places, units.cpu().numpy())
            np.add.at(losses.counts, places, 1.0)
        yield HeadPass(rows, batch, logits)


def all_logits(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, Floats]:
    """Loss of every row and its logits, [N, K], of a head that gives one vector a row."""
    losses = RowLosses.empty(len(rows.table))
    found = np.zeros((len(rows.table), len(head_of(view.loaded).labels)))
    for one in head_passes(view, rows.table, losses, progress):
        found[one.rows] = one.logits.double().cpu().numpy()
    return losses.over_all(view), view.deal.added(found)
