"""A classification of several tasks, task by task: each with its rows and its classes, as if it had been alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.core.task_labels import numbers_of, parted, tasks_of_classes
from burnish.data.table import TokenTable
from burnish.evaluate.classification import Classified
from burnish.evaluate.loss import RowLosses
from burnish.evaluate.run import Evaluation, Split, compare


def by_task(found: Evaluation) -> dict[str, Evaluation]:
    """The part of each task that has rows: its classes under their own names, and their probabilities among themselves.

    Args:
        found: The scores of a head with classes of several tasks; without such there are no parts.
    """
    if not found.classified or not found.class_tasks:
        return {}
    parts = {}
    for task in dict.fromkeys(found.class_tasks):
        classes = numbers_of(found.class_tasks, task)
        place = np.full(len(found.class_tasks), -1)
        place[classes] = np.arange(len(classes))
        rows = np.flatnonzero(place[found.truth] >= 0)
        if not len(rows):
            continue
        block = found.classified.confusion[np.ix_(classes, classes)]
        parts[task] = replace(
            found,
            losses=RowLosses(found.losses.totals[rows], found.losses.counts[rows]),
            classified=Classified(tuple(parted(found.classified.labels[k])[1] for k in classes), block),
            scores=found.scores[np.ix_(rows, np.asarray(classes))],
            truth=place[found.truth[rows]],
            class_tasks=(),
        )
    return parts


def compare_tasks(base: Evaluation, tuned: Evaluation, train: TokenTable, split: Split) -> dict[str, dict[str, Any]]:
    """Each task's part of ``evaluation.json``: both models, their comparison, and what its most frequent class reaches.

    Args:
        base: The scores before training.
        tuned: Those after it, on the same rows.
        train: The training rows.
        split: The rows.
    """
    counts = np.bincount(train.labels, minlength=len(split.choices))
    after = by_task(tuned)
    return {
        task: {
            "rows": len(one.truth),
            "base": one.to_json(),
            "tuned": after[task].to_json(),
            "majority": _majority(one, counts[numbers_of(base.class_tasks, task)]),
            "comparison": compare(one, after[task]),
        }
        for task, one in by_task(base).items()
    }


def majority_of_tasks(train: TokenTable, split: Split) -> dict[str, Any]:
    """What the most frequent class of each row's task reaches."""
    tasks = tasks_of_classes(split.choices)
    counts = np.bincount(train.labels, minlength=len(split.choices))
    top = {task: int(max(numbers_of(tasks, task), key=lambda k: counts[k])) for task in dict.fromkeys(tasks)}
    said = np.asarray([top[task] for task in tasks])[split.true]
    counted = Classified.count(split.choices, split.true, said)
    named = ", ".join(split.choices[number] for number in top.values())
    return {"label": named, "accuracy": counted.accuracy, "macro_f1": counted.macro_f1}


def _majority(part: Evaluation, counts: NDArray[np.integer]) -> dict[str, Any]:
    assert part.classified is not None
    labels, top = part.classified.labels, int(counts.argmax())
    counted = Classified.count(labels, part.truth, np.full(len(part.truth), top))
    return {"label": labels[top], "accuracy": counted.accuracy, "macro_f1": counted.macro_f1}
