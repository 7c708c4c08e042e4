"""Where a model errs: every wrong row, what wrong rows have in common, and labels that may be wrong themselves."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.data.columns import column_values
from burnish.data.example import Example
from burnish.data.names import split_name
from burnish.evaluate.intervals import Floats, wilson
from burnish.evaluate.label_errors import LabelErrors, find_label_errors
from burnish.evaluate.representations import clusters, representations
from burnish.evaluate.run import Evaluation, Split, probabilities_of
from burnish.evaluate.slices import SMALLEST, Slice, slices
from burnish.evaluate.traits import FORMS, Vocabulary, quartiles
from burnish.train.rescore import Target
from burnish.train.tasks import task_of

UNTESTED = ("confidence",)
"""Traits that measure by themselves how likely a row is wrong."""
EXAMPLES = 3
LONGEST = 4000
"""Characters of a text that the page shows; the CSV file has them all."""
CONFIDENCE = ((0.5, "under 50 %"), (0.7, "50 to 70 %"), (0.9, "70 to 90 %"), (2.0, "over 90 %"))


@dataclass(frozen=True)
class Errors:
    """The analysis of a model's errors on a split.

    Attributes:
        target: The model and the rows.
        evaluation: Its scores.
        probabilities: [N, K].
        wrong: [N] which rows are errors.
        traits: By name, the value of each of the N rows.
        slices: Every slice of every trait, tested.
        doubts: Labels that may be wrong.
        rare: [N] the rare words of each row.
    """

    target: Target
    evaluation: Evaluation
    probabilities: Floats
    wrong: NDArray[np.bool_]
    traits: Mapping[str, Sequence[str]]
    slices: Sequence[Slice]
    doubts: LabelErrors
    rare: Sequence[Sequence[str]]

    @property
    def split(self) -> Split:
        """The rows."""
        return self.target.split

    def rows(self) -> Iterator[dict[str, Any]]:
        """One mapping for each error and each doubted label: the confidently wrong first."""
        suggested = {int(r): int(s) for r, s in zip(self.doubts.rows, self.doubts.suggested, strict=True)}
        rank = {int(r): i for i, r in enumerate(self.doubts.rows, 1)}
        confidence = self.probabilities.max(1)
        chosen = np.flatnonzero(self.wrong | np.isin(np.arange(len(self.wrong)), self.doubts.rows))
        for row in sorted(chosen.tolist(), key=lambda r: (-confidence[r], r)):
            yield self._row(row, rank.get(row), suggested.get(row))

    def _row(self, row: int, rank: int | None, suggested: int | None) -> dict[str, Any]:
        labels, example = self.split.choices, self.split.examples[row]
        shares, true = self.probabilities[row], self.split.true[row]
        best = int(shares.argmax())
        return {
            "id": example.id,
            **texts_of(example),
            **({"task": example.task} if self.split.class_tasks else {}),
            "true": labels[true],
            "predicted": labels[best],
            "confidence": float(shares[best]),
            "probability_of_true": float(shares[true]),
            "probabilities": {
                label: float(p) for label, p, own in zip(labels, shares, self._own(row), strict=True) if own
            },
            "rare_words": list(self.rare[row]),
            "label_error_rank": rank,
            "suggested": labels[suggested] if suggested is not None else None,
            "traits": {name: values[row] for name, values in self.traits.items()},
        }

    def _own(self, row: int) -> list[bool]:
        """Which classes a row can have: those of its task, where tasks have some of their own."""
        tasks = self.split.class_tasks
        return [task == tasks[self.split.true[row]] for task in tasks] or [True] * len(self.split.choices)

    def to_json(self) -> dict[str, Any]:
        """Everything but the rows."""
        count, errors = len(self.wrong), int(self.wrong.sum())
        tested = [one for one in self.slices if one.p_value == one.p_value]
        return {
            "split": self.split.name,
            "rows": count,
            "errors": errors,
            "interval": wilson(errors, count),
            "labels": list(self.split.choices),
            "pairs": self.pairs(),
            "significant": [self._slice(one) for one in tested if one.significant],
            "tested": len(tested),
            "smallest": SMALLEST,
            "groups": {name: [self._slice(s) for s in self.slices if s.trait == name] for name in self.traits},
            "label_errors": len(self.doubts.rows),
            "confident_joint": self.doubts.joint.tolist(),
            "made": time.strftime("%Y-%m-%d %H:%M"),
        }

    def pairs(self) -> list[dict[str, Any]]:
        """How often each class was taken for each other one, most frequent first."""
        labels, said = self.split.choices, self.probabilities.argmax(1)
        true = self.split.true
        counts = Counter(zip(true[self.wrong].tolist(), said[self.wrong].tolist(), strict=True))
        sizes = Counter(true.tolist())
        return [
            {"true": labels[t], "predicted": labels[p], "rows": n, "of": sizes[t]}
            for (t, p), n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        ]

    def _slice(self, one: Slice) -> dict[str, Any]:
        confidence = self.probabilities.max(1)
        wrong = [int(r) for r in one.members if self.wrong[r]]
        shown = sorted(wrong, key=lambda r: (-confidence[r], r))[:EXAMPLES]
        return {
            "trait": one.trait,
            "value": one.value,
            "rows": one.rows,
            "errors": one.errors,
            "rate": one.rate,
            "low": one.low,
            "high": one.high,
            "rest": one.rest,
            "p_value": one.p_value,
            "adjusted": one.adjusted,
            "examples": [self._example(r) for r in shown],
        }

    def _example(self, row: int) -> dict[str, str]:
        labels = self.split.choices
        return {
            "text": self.split.examples[row].prompt_text[:LONGEST],
            "true": labels[self.split.true[row]],
            "predicted": labels[int(self.probabilities[row].argmax())],
        }


def analyse(target: Target, evaluation: Evaluation, group_by: Sequence[str] = ()) -> Errors:
    """Look at the errors of a model.

    Args:
        target: The model and the rows.
        evaluation: Its scores.
        group_by: Further columns of the data whose values are looked at as slices.

    Raises:
        UserError: The task has no classes, or there is no such column.
    """
    require_classes(target)
    split = target.split
    columns = {name: _column(target, name) for name in dict.fromkeys(group_by)}
    shares = probabilities_of(evaluation.scores)
    wrong = shares.argmax(1) != split.true
    vocabulary = Vocabulary(e.prompt_text for e in target.prepared.examples["train"])
    texts = [e.prompt_text for e in split.examples]
    traits = {**_traits(target, texts, shares, vocabulary), **columns}
    traits = {name: values for name, values in traits.items() if len(set(values)) > 1}
    return Errors(
        target,
        evaluation,
        shares,
        wrong,
        traits,
        slices(traits, wrong.tolist(), UNTESTED),
        find_label_errors(shares, split.true),
        [vocabulary.rare(text) for text in texts],
    )


def require_classes(target: Target) -> None:
    """Refuse a task whose errors cannot be told by classes, before anything is scored.

    Raises:
        UserError: It has none.
    """
    if not target.split.choices:
        raise UserError(
            "errors are told by classes, and this recipe has none",
            where="--errors",
            fix="name a run of `task: classification`, or one with `evaluate.choices`",
        )


def _traits(target: Target, texts: Sequence[str], shares: Floats, vocabulary: Vocabulary) -> dict[str, Sequence[str]]:
    split, labels = target.split, target.split.choices
    return {
        "true class": [labels[t] for t in split.true],
        "predicted class": [labels[p] for p in shares.argmax(1).tolist()],
        "confidence": [next(name for end, name in CONFIDENCE if p < end) for p in shares.max(1).tolist()],
        "length": quartiles(split.table.lengths.tolist()),
        "rare words": [vocabulary.rareness(text) for text in texts],
        **{name: [form(text) for text in texts] for name, form in FORMS.items()},
        "source": [split_name(e.id)[0] for e in split.examples],
        "task": [e.task or "" for e in split.examples],
        "meaning": clusters(representations(target.view, split.table), texts, target.config.evaluate.seed),
    }


def _column(target: Target, name: str) -> list[str]:
    ids = [example.id for example in target.split.examples]
    values = column_values(target.config.data, task_of(target.config).data(target.config), name, ids)
    return [values[one] for one in ids]


def texts_of(example: Example) -> dict[str, str]:
    """The text of a row, and the second one of a pair."""
    if example.pair is not None:
        return {"text": example.prompt or "", "text_pair": example.pair}
    return {"text": example.prompt_text}
