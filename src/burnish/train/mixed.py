"""Updates that hold replayed rows beside those of the task, which stay as they are.

Replayed rows belong to the updates, since they are trained on like the task's: they are planned for a whole training,
in an exact ratio, before there is a model. General rows of a regularizer (`regularizers/general.py`) belong to its
term, which is made of the loaded model, and the loop takes them beside the updates.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.core.types import Batch
from burnish.data.batches import BatchConfig, Layout, micro_batches
from burnish.data.mixing import Mix, mix_rows, mix_tokens, ratios, targets
from burnish.data.replay import ReplayRows, collate_replayed
from burnish.train.updates import Updates

Collate = Callable[[Mix, Sequence[int], float], Batch]


class MixedUpdates:
    """The micro-batches of the task, and behind them in each update those of its replayed rows.

    Which rows these are follows from seed and step alone, so that a resumed run goes on with the same ones.

    Args:
        task: The updates of the task.
        rows: What is replayed.
        collate: From the mix, places in it and their weight to a batch.
    """

    def __init__(self, task: Updates, rows: ReplayRows, collate: Collate) -> None:
        self.task, self.replayed, self.collate = task, rows, collate
        self.mix = planned_mix(task, rows)

    def __len__(self) -> int:
        return len(self.task)

    def __getitem__(self, step: int) -> list[Batch]:
        return [*self.task[step], *(self._batch(step, places) for places in self.cut(step))]

    def epoch(self, step: int) -> float:
        """Epochs of the task's rows done after ``step`` updates."""
        return self.task.epoch(step)

    def cut(self, step: int) -> list[list[int]]:
        """Places in the mix of every micro-batch of replayed rows of one update."""
        stretch = self.mix.of(step)
        places = self.task.share.of(np.arange(stretch.start, stretch.stop), self.mix.lengths)
        budget: BatchConfig = self.task.batches
        layout: Layout = self.task.layout
        return micro_batches(places, self.mix.lengths, budget, layout=layout) if len(places) else []

    def samples(self, step: int) -> dict[str, Batch]:
        """One row of the task, and a replayed one where the update has any."""
        stretch = self.mix.of(step)
        batch = self._batch(step, [stretch.start]) if stretch.stop > stretch.start else None
        return {**self.task.samples(step), **({batch["source"]: batch} if batch else {})}

    def heaviest(self) -> Batch:
        """The micro-batch with the most places, be it of the task or replayed."""
        first = self.task.heaviest()
        if not len(self.mix.rows):
            return first
        longest = int(np.argmax(self.mix.lengths))
        fullest = int(np.argmax(np.diff(self.mix.begins)))
        steps = {int(np.searchsorted(self.mix.begins, longest, side="right")) - 1, fullest}
        second = [self._batch(step, places) for step in steps for places in self.cut(step)]
        return max([first, *second], key=lambda batch: batch["input_ids"].numel())

    def totals(self) -> tuple[int, int, int, int]:
        """Rows and tokens that are replayed over the training, and those of the task."""
        mix = self.mix
        task = [self.task.rows(step) for step in range(len(self.task))]
        tokens = sum(int(self.task.lengths[rows].sum()) for rows in task)
        return len(mix.rows), int(mix.lengths.sum()), sum(map(len, task)), tokens

    def _batch(self, step: int, places: Sequence[int]) -> Batch:
        return self.collate(self.mix, places, float(self.mix.shares[step]))


def mixed(task: Updates, rows: ReplayRows, pad_id: int, decoder_start_id: int | None, tasks: bool) -> MixedUpdates:
    """The updates of a task with replayed rows beside its own.

    Args:
        task: The updates of the task.
        rows: What is replayed.
        pad_id: Token that fills up.
        decoder_start_id: First token of an encoder-decoder's decoder.
        tasks: Whether rows of this job name a task.
    """
    layout: Layout = task.layout
    collate = partial(
        collate_replayed, rows, layout=layout, pad_id=pad_id, decoder_start_id=decoder_start_id, tasks=tasks
    )
    return MixedUpdates(task, rows, collate)


def replay_settings(updates: Updates | MixedUpdates) -> list[Finding]:
    """What is replayed over a whole training, in words."""
    if not isinstance(updates, MixedUpdates):
        return []
    rows, tokens, task_rows, task_tokens = updates.totals()
    summary = updates.replayed.summary
    origins = ", ".join(f"{part['name']} ({part['rows']:,} rows)" for part in summary["parts"])
    what = (
        f"{rows:,} general rows are replayed beside {task_rows:,} of the task ({rows / (rows + task_rows):.1%} of the "
        f"rows, {tokens / (tokens + task_tokens):.1%} of the tokens), from {origins}; the log has both losses apart"
    )
    return [Finding("note", "data.replay", what, where="data.replay")]


def planned_mix(task: Updates, rows: ReplayRows) -> Mix:
    """The replayed rows of every update.

    Raises:
        UserError: The training is too short for a single one.
    """
    settings, steps, seed = rows.config, len(task), task.seed
    chosen = [task.rows(step) for step in range(steps)]
    ratio, lengths = ratios(settings.ends, steps), rows.table.lengths
    if settings.unit == "rows":
        units = np.array([float(len(numbers)) for numbers in chosen])
        mix = mix_rows(rows.parts, lengths, targets(units, ratio), units, seed)
    else:
        units = np.array([float(task.lengths[numbers].sum()) for numbers in chosen])
        ends = [s for s in range(steps) if (s + 1) % task.steps_per_epoch == 0 or s == steps - 1]
        mix = mix_tokens(rows.parts, lengths, targets(units, ratio), units, seed, ends, rows.may_cut)
    if not len(mix.rows):
        raise UserError(
            f"at this ratio no general row is replayed in {steps:,} updates",
            where="data.replay.ratio",
            fix="raise it, or train longer",
        )
    return mix
