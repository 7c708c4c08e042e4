"""Forward passes of a head over rows, and what its answers to them come to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from burnish.core.types import Batch
from burnish.data.example import Example
from burnish.data.labelled import LabelledRenderer
from burnish.data.table import TokenTable
from burnish.evaluate.classes import head_of
from burnish.evaluate.intervals import Floats
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.models.classifier import class_logits
from burnish.ops.units import UNIT_LOSSES


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

    @property
    def groups(self) -> list[tuple[Example, range]]:
        """Each example once, with its rows."""
        found: list[tuple[Example, range]] = []
        for i, example in enumerate(self.examples):
            if found and found[-1][0].id == example.id:
                found[-1] = (example, range(found[-1][1].start, i + 1))
            else:
                found.append((example, range(i, i + 1)))
        return found


@dataclass(frozen=True)
class HeadResult:
    """What a head answered.

    Attributes:
        task: The head's task.
        columns: What the measures are made of, one entry an example.
        answers: The answer to each example, as JSON values.
        targets: What would have been right, as text.
        prompts: What each example gave.
        ids: Their names.
    """

    task: str
    columns: dict[str, Floats]
    answers: list[dict[str, Any]]
    targets: list[str]
    prompts: list[str]
    ids: list[str]

    @classmethod
    def of(
        cls,
        task: str,
        examples: Sequence[Example],
        columns: dict[str, Any],
        answers: list[dict[str, Any]],
        targets: Sequence[str] | None = None,
    ) -> HeadResult:
        """Of one answer to each example."""
        return cls(
            task,
            {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()},
            answers,
            list(targets) if targets is not None else [e.target_text for e in examples],
            [e.prompt_text for e in examples],
            [e.id for e in examples],
        )

    def to_json(self) -> dict[str, Any]:
        """All of it, to be read again by ``HeadResult.read``."""
        return {**vars(self), "columns": {name: column.tolist() for name, column in self.columns.items()}}

    @classmethod
    def read(cls, values: dict[str, Any]) -> HeadResult:
        """What ``to_json`` gave."""
        columns = {name: np.asarray(column, dtype=np.float64) for name, column in values["columns"].items()}
        return cls(**{**values, "columns": columns})


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
    model, head, done = view.loaded.model, head_of(view.loaded), 0
    was_training = model.training
    model.eval()
    try:
        for rows, counts in view.dealt(table):
            batch = view.collate(table, rows)
            with torch.no_grad(), view.autocast():  # type: ignore[attr-defined]
                logits = class_logits(model, head, batch)
            if not counts:
                continue
            if losses is not None:
                units, owners = UNIT_LOSSES[head.task](logits.double(), batch)
                places = np.asarray(rows)[owners.cpu().numpy()]
                np.add.at(losses.totals, places, units.cpu().numpy())
                np.add.at(losses.counts, places, 1.0)
            yield HeadPass(rows, batch, logits)
            done += len(rows)
            if progress:
                progress(done)
    finally:
        model.train(was_training)


def all_logits(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, Floats]:
    """Loss of every row and its logits, [N, K], of a head that gives one vector a row."""
    losses = RowLosses.empty(len(rows.table))
    found = np.zeros((len(rows.table), len(head_of(view.loaded).labels)))
    for one in head_passes(view, rows.table, losses, progress):
        found[one.rows] = one.logits.double().cpu().numpy()
    return losses.over_all(view), view.deal.added(found)
