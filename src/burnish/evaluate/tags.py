"""A token classification scored by its head: one tag a word, and entities counted as a whole."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from burnish.data.example import Example
from burnish.data.kept import JsonWriter, shelved
from burnish.data.tagged import OUTSIDE, TaggedRenderer
from burnish.evaluate.deal import ByRow
from burnish.evaluate.entities import Entity, counts, entities, kinds
from burnish.evaluate.head_rows import HeadResult, HeadRows, Part, answered, head_passes
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

    def parts() -> Iterator[Part]:
        for some in tagged:
            told = [_tagged(renderer, labels, *one) for one in some]
            yield {name: [columns[name] for columns, _ in told] for name in told[0][0]}, [row for _, row in told]

    return losses, HeadResult.of(renderer.task, parts())


def _tagged(
    renderer: TaggedRenderer, labels: tuple[str, ...], example: Example, tags: list[str], shares: list[float]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the measures need of one example, and its row."""
    true = renderer.tags_of(example)
    columns: dict[str, Any] = dict(zip(("right", "found", "given"), counts(true, tags, labels), strict=True))
    columns |= {"words_right": sum(a == b for a, b in zip(true, tags, strict=True)), "words": len(true)}
    found = entities(tags)
    sure = float(np.mean([share_of(e, shares) for e in found])) if found else float(np.mean(shares))
    answer = {"predicted": listed(found, example.items), "tags": tags, "right": tags == true, "probability": sure}
    return columns, answered(example, answer, listed(entities(true), example.items))


Tagged = tuple[Example, list[str], list[float]]
"""An example, the likeliest tag of every word, and its probability."""


def tag_words(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, Iterator[list[Tagged]]]:
    """Loss of every row; for each example the likeliest tag of every word and its probability, some at a time.

    The first token of a word decides. A word that the tokenizer drops has none and is outside of all entities.
    """
    renderer, table = rows.renderer, rows.table
    assert isinstance(renderer, TaggedRenderer)
    losses, order = RowLosses.empty(len(table)), array("q")
    with shelved() as shelf:
        best = JsonWriter[list[Any]](shelf, "tag")
        for one in head_passes(view, table, losses, progress):
            shares = torch.softmax(by_row(one.logits, one.batch).double(), dim=-1)
            values, numbers = (x.cpu().numpy() for x in shares.max(dim=-1))
            deciding = [np.flatnonzero(table.row(row)[1]) for row in one.rows]
            best.append([numbers[i, at].tolist(), values[i, at].tolist()] for i, at in enumerate(deciding))
            order.extend(one.rows)
        known = view.deal.gathered(sorted(order), best.finish(order))
    return losses.over_all(view), _by_example(renderer, rows, known)


def _by_example(renderer: TaggedRenderer, rows: HeadRows, best: ByRow[list[Any]]) -> Iterator[list[Tagged]]:
    outside = OUTSIDE if OUTSIDE in renderer.labels else renderer.labels[0]
    for groups in rows.groups():
        aligned, found = renderer.align([example for example, _ in groups]), list[Tagged]()
        for (example, own), text in zip(groups, aligned, strict=True):
            tags, sure = [outside] * len(example.items), [1.0] * len(example.items)
            pairs = [pair for row in own for pair in zip(*best[row], strict=True)]
            for word, (number, value) in zip(text.order, pairs, strict=False):
                tags[word], sure[word] = renderer.labels[number], value
            found.append((example, tags, sure))
        yield found


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
