"""Rows whose text, or pair of texts, a head gives numbers for: several classes at once, a score, a preference."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data.config import ChatMode, RenderConfig, SourceConfig
from burnish.data.example import Example
from burnish.data.formats import Plan
from burnish.data.labelled import MOST_CLASSES, LabelledRenderer, sort_labels
from burnish.data.render import Kind, Outcome, Rendered, Renderer
from burnish.data.rows import Dropped, Read
from burnish.data.splits import Values
from burnish.data.table import TokenTable
from burnish.data.task_formats import plan_task

SCORE = ("score",)
_BETWEEN = "\x1f"
_SHOWN = 8


class SeveralRenderer(LabelledRenderer):
    """Texts with the classes that each has: a one for these, a zero for the others."""

    task = "multi-label"

    def _target(self, example: Example) -> dict[str, Any]:
        has = {self._numbers[name] for name in example.items}
        return {"values": tuple(float(i in has) for i in range(len(self.labels)))}


class ScoredRenderer(LabelledRenderer):
    """Texts with a score, which is learnt in standard deviations from the mean of the training rows.

    Args:
        tokenizer: The model's tokenizer.
        config: Length, and what to do with longer rows.
        labels: Mean and standard deviation, as texts.
    """

    task = "regression"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, labels: Sequence[str]) -> None:
        super().__init__(tokenizer, config, SCORE)
        self.mean, self.deviation = (float(text) for text in labels) if len(labels) == 2 else (0.0, 1.0)

    def _target(self, example: Example) -> dict[str, Any]:
        return {"values": ((float(example.label or 0) - self.mean) / self.deviation,)}


class PairRenderer(LabelledRenderer):
    """A prompt with a chosen and with a rejected text: two rows, of which the first is to score higher.

    The chosen row is ``input_ids``, the rejected one ``target_ids``. Prompt and text are framed as a pair of texts
    where there is a prompt and the tokenizer keeps pairs apart, else as one text.
    """

    task = "ranking"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, labels: Sequence[str]) -> None:
        super().__init__(tokenizer, config, SCORE)

    def _target(self, example: Example) -> dict[str, Any]:
        return {"label": 0}

    def render_all(self, examples: Sequence[Example]) -> list[Outcome]:
        """Render many examples at once; each gives both rows as one, a reason to drop it, or a fault."""
        found = iter(super().render_all([self._one(e, t) for e in examples for t in (e.pair, e.completion)]))
        return [self._both(example.id, next(found), next(found)) for example in examples]

    def prompt_ids(self, prompt: object, tools: object = None) -> list[int]:
        """Token ids of one text."""
        return self.render_one("", str(prompt)).input_ids

    def render_one(self, prompt: str, text: str) -> Rendered:
        """One text behind its prompt, as a row.

        Raises:
            UserError: It has no tokens.
        """
        outcome = super().render_all([self._one(Example("text", prompt=prompt), text)])[0]
        if not isinstance(outcome, Rendered):
            raise UserError("a text without tokens has no score", where="text", fix="leave it out")
        return outcome

    def _one(self, example: Example, text: str | None) -> Example:
        if example.prompt and self._double.middle and not self._double.typed:
            return Example(example.id, prompt=example.prompt, pair=text, completion="")
        glue = "\n" if example.prompt else ""
        return Example(example.id, prompt=f"{example.prompt or ''}{glue}{text}", completion="")

    def _both(self, name: str, chosen: Outcome, rejected: Outcome) -> Outcome:
        for one in (chosen, rejected):
            if not isinstance(one, Rendered):
                return one
        assert isinstance(chosen, Rendered) and isinstance(rejected, Rendered)
        if chosen.input_ids == rejected.input_ids:
            return Dropped(name, "both texts are the same tokens once they are cut, so neither is preferred")
        ids, other = chosen.input_ids, rejected.input_ids
        length = chosen.full_length + rejected.full_length
        return Rendered(ids, [False] * len(ids), ids, other, length, 0, chosen.marks, 0)


@dataclass(frozen=True)
class SeveralTask:
    """Tells all classes that a text has.

    Attributes:
        labels: Names of the classes, in their order; empty to find them in the training rows.
    """

    labels: tuple[str, ...] = ()

    @property
    def asked(self) -> list[str]:
        """What is learnt, and the classes that the recipe lists."""
        return [SeveralRenderer.task, *self.labels]

    def label_of(self, example: Example) -> str:
        """The classes of an example, as one text."""
        return _BETWEEN.join(sorted(example.items))

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """Which columns hold text and classes."""
        return plan_task(source, list(read.columns), "multi_label")

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """The names of the classes, given or found and sorted.

        Raises:
            UserError: There is none, there are too many, or a row has one that is none of them.
        """
        found = {n for text in labels["train"].distinct() for n in text.split(_BETWEEN) if n}
        known = self.labels or tuple(sort_labels(found))
        if not known or len(known) > MOST_CLASSES:
            what = f"the training rows have {len(known):,} different labels"
            raise UserError(what, where="data.train", fix="map the column of the classes: `columns: {labels: …}`")
        for part, values in labels.items():
            odd = {text: {n for n in text.split(_BETWEEN) if n} - set(known) for text in values.distinct()}
            names = sorted({n for one in odd.values() for n in one})
            if names:
                rows = values.at(values.outside([text for text, one in odd.items() if not one]))
                of = "`task.labels`" if self.labels else "the labels of the training rows"
                raise UserError(
                    f"{len(rows.codes):,} rows have a label that is none of {of}: "
                    + ", ".join(f"`{n[:40]}`" for n in names[:_SHOWN]),
                    where=f"data.{part}, row {rows.names[0]}",
                    fix="mend these rows, or list every class in `task.labels`",
                )
        return known

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Texts with the classes that each has."""
        return SeveralRenderer(tokenizer, config, labels)

    def look_again(self, name: str, sample: Sequence[tuple[Example, Rendered]], renderer: Renderer) -> list[Finding]:
        """Rows with other classes than their examples."""
        labels = renderer.labels  # type: ignore[attr-defined]
        pairs = [({n for n, v in zip(labels, row.values, strict=True) if v}, e) for e, row in sample]
        return _refuse_others(name, [e.id for found, e in pairs if found != set(e.items)], len(sample))

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Count the rows of each class, in each split."""
        for name, table in tables.items():
            sums = table.values.reshape(-1, len(labels)).sum(0) if len(table) else np.zeros(len(labels))
            splits[name]["classes"] = {label: int(n) for label, n in zip(labels, sums, strict=True)}
        total, counts = max(1, len(tables["train"])), splits["train"]["classes"]
        shown = ", ".join(f"{k} {n:,}" for k, n in list(counts.items())[:12])
        mean = sum(counts.values()) / total
        what = f"{len(labels)} classes, of which a text has {mean:.2f} in the mean: {shown}"
        notes = [Finding("note", "data.classes", what, "task.labels", evidence={"counts": counts})]
        absent = [k for k, n in counts.items() if not n] + [k for k, n in counts.items() if n == total]
        if absent:
            what = f"no training row tells apart who has {', '.join(f'`{k}`' for k in absent[:_SHOWN])}: all or none do"
            notes.append(Finding("warning", "data.class-without-rows", what, "task.labels", "Nothing teaches it."))
        return notes


@dataclass(frozen=True)
class ScoredTask:
    """Gives a text a score.

    Attributes:
        mean: What is taken from a score before it is learnt; None for the mean of the training rows.
        deviation: What it is divided by then; None for their standard deviation.
    """

    mean: float | None = None
    deviation: float | None = None

    @property
    def asked(self) -> list[str]:
        """All that decides about what is learnt."""
        return [ScoredRenderer.task, repr(self.mean), repr(self.deviation)]

    def label_of(self, example: Example) -> str:
        """The score, as a text."""
        return example.label

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """Which columns hold text and score."""
        return plan_task(source, list(read.columns), "regression")

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """Mean and standard deviation of the training rows' scores, as texts.

        Raises:
            UserError: All scores are equal.
        """
        if self.mean is not None and self.deviation is not None:
            return (repr(self.mean), repr(self.deviation))
        values = labels["train"]
        scores = np.asarray([float(text) for text in values.texts])[values.codes]
        mean, deviation = float(scores.mean()), float(scores.std())
        if not deviation or not math.isfinite(deviation):
            what = f"all training rows have the score {scores[0]:g}, so there is nothing to learn"
            raise UserError(what, where="data.train", fix="map the column of the scores: `columns: {score: …}`")
        mean, deviation = self.mean if self.mean is not None else mean, self.deviation or deviation
        return (repr(mean), repr(deviation))

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Texts with their scores."""
        return ScoredRenderer(tokenizer, config, labels)

    def look_again(self, name: str, sample: Sequence[tuple[Example, Rendered]], renderer: Renderer) -> list[Finding]:
        """Rows with other scores than their examples."""
        assert isinstance(renderer, ScoredRenderer)
        back = [(row.values[0] * renderer.deviation + renderer.mean, e) for e, row in sample]
        wrong = [e.id for value, e in back if not math.isclose(value, float(e.label), rel_tol=1e-6, abs_tol=1e-6)]
        return _refuse_others(name, wrong, len(sample))

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Say what the scores are learnt as."""
        mean, deviation = (float(text) for text in labels)
        what = f"scores are learnt as (score - {mean:.4g}) / {deviation:.4g}, and given back as they were"
        return [Finding("note", "data.scores", what, "task", "Mean and deviation are those of the training rows.")]


@dataclass(frozen=True)
class PairTask:
    """Ranks texts by which of two is preferred."""

    @property
    def asked(self) -> list[str]:
        """What is learnt."""
        return [PairRenderer.task]

    def label_of(self, example: Example) -> str:
        """Nothing: there are no classes."""
        return ""

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """Which columns hold the chosen and the rejected text."""
        return plan_task(source, list(read.columns), "ranking")

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """The one score of a text."""
        return SCORE

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Pairs of texts."""
        return PairRenderer(tokenizer, config, labels)

    def look_again(self, name: str, sample: Sequence[tuple[Example, Rendered]], renderer: Renderer) -> list[Finding]:
        """Chosen and rejected text exchanged."""
        wrong = []
        for example, row in sample:
            again = renderer.render(example)
            if again.input_ids != row.input_ids or again.target_ids != row.target_ids:
                wrong.append(example.id)
        return _refuse_others(name, wrong, len(sample))

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Nothing to add."""
        return []


def _refuse_others(name: str, wrong: Sequence[str], total: int) -> list[Finding]:
    if not wrong:
        return []
    what = f"{len(wrong)} of {total} {name} rows that were looked at again have another target than their example"
    why = "The model would learn from rows that nobody wrote."
    return [Finding("stop", "render.other-label", what, wrong[0], why, "look at them with `burnish inspect`")]
