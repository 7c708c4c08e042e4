"""A token classification scored by its head: one tag a word, and entities counted as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from burnish.data.example import Example
from burnish.data.tagged import OUTSIDE, TaggedRenderer
from burnish.evaluate.entities import Entity, counts, entities, kinds
from burnish.evaluate.head_rows import HeadResult, HeadRows, head_passes
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.evaluate.measures import Columns, Measures, class_rows, share
from burnish.ops.units import by_row

ENTITY_MEASURES: Measures = {
    "entity_f1": lambda c: share(2 * c["right"].sum(), c["found"].sum() + c["given"].sum()),
    "entity_precision": lambda c: share(c["right"].sum(), c["found"].sum()),
    "entity_recall": lambda c: share(c["right"].sum(), c["given"].sum()),
    "accuracy": lambda c: share(c["words_right"].sum(), c["words"].sum()),
}
"""Entities count when kind and both ends are right; ``accuracy`` is the share of words with the right tag."""


def score_tags(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, HeadResult]:
    """Loss of every row, and the tags of every example.

    Args:
        view: The model with its head.
        rows: The rows.
        progress: Told how many rows are done.
    """
    renderer = rows.renderer
    assert isinstance(renderer, TaggedRenderer)
    losses, tagged = tag_words(view, rows, progress)
    labels = kinds(renderer.labels)
    names = ("right", "found", "given", "words_right", "words")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    examples = [example for example, _ in rows.groups]
    answers, targets = [], []
    for example, (tags, shares) in zip(examples, tagged, strict=True):
        true = renderer.tags_of(example)
        for name, row in zip(names, counts(true, tags, labels), strict=False):
            columns[name].append(row)
        columns["words_right"].append(sum(a == b for a, b in zip(true, tags, strict=True)))
        columns["words"].append(len(true))
        found = entities(tags)
        sure = float(np.mean([share_of(e, shares) for e in found])) if found else float(np.mean(shares))
        answers.append({"predicted": listed(found, example.items), "tags": tags, "right": tags == true})
        answers[-1]["probability"] = sure
        targets.append(listed(entities(true), example.items))
    return losses, HeadResult.of(rows.renderer.task, examples, columns, answers, targets)


def tag_words(
    view: View, rows: HeadRows, progress: Progress | None = None
) -> tuple[RowLosses, list[tuple[list[str], list[float]]]]:
    """Loss of every row; for each example the likeliest tag of every word, and its probability.

    The first token of a word decides. A word that the tokenizer drops has none and is outside of all entities.
    """
    renderer, table = rows.renderer, rows.table
    assert isinstance(renderer, TaggedRenderer)
    losses = RowLosses.empty(len(table))
    own_best: dict[int, tuple[list[int], list[float]]] = {}
    for one in head_passes(view, table, losses, progress):
        shares = torch.softmax(by_row(one.logits, one.batch).double(), dim=-1)
        values, numbers = (x.cpu().numpy() for x in shares.max(dim=-1))
        for place, row in enumerate(one.rows):
            deciding = np.flatnonzero(table.row(row)[1])
            own_best[row] = (numbers[place, deciding].tolist(), values[place, deciding].tolist())
    losses, best = losses.over_all(view), view.deal.merged(own_best)
    groups = rows.groups
    aligned = renderer.align([example for example, _ in groups])
    outside = OUTSIDE if OUTSIDE in renderer.labels else renderer.labels[0]
    found = []
    for (example, own), text in zip(groups, aligned, strict=True):
        tags, sure = [outside] * len(example.items), [1.0] * len(example.items)
        numbers = [n for row in own for n in best[row][0]]
        certain = [s for row in own for s in best[row][1]]
        for word, number, value in zip(text.order, numbers, certain, strict=False):
            tags[word], sure[word] = renderer.labels[number], value
        found.append((tags, sure))
    return losses, found


def share_of(entity: Entity, shares: Sequence[float]) -> float:
    """The mean probability of the tags of an entity's words."""
    return float(np.mean(shares[entity.start : entity.end]))


def listed(found: Sequence[Entity], words: Sequence[str]) -> str:
    """Entities as text: ``PER: Ada Lovelace; LOC: London``."""
    return "; ".join(f"{e.label}: {' '.join(words[e.start : e.end])}" for e in found) or "(none)"


def entity_tables(columns: Columns, labels: tuple[str, ...]) -> dict[str, Any]:
    """Precision, recall and F1 of each kind of entity."""
    right, found, given = (columns[name].sum(0) for name in ("right", "found", "given"))
    return {"per_class": class_rows(right, found, given, kinds(labels))}


def words_example(words: Sequence[str], renderer: TaggedRenderer, name: str = "text") -> Example:
    """Words without known tags, as an example."""
    return Example(name, prompt=" ".join(words), items=tuple(words), marks=(renderer.labels[0],) * len(words))
