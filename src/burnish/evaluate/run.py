"""Everything that is measured on one split, for one model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from burnish.data.example import Example
from burnish.data.labelled import LabelledRenderer
from burnish.data.own_classes import OwnClassesRenderer
from burnish.data.render import Renderer
from burnish.data.streams import some_of
from burnish.data.table import TokenTable
from burnish.evaluate.choices import Numbers, Question, Scores, questions, score_rows, true_choices, work
from burnish.evaluate.classes import score_classes
from burnish.evaluate.classification import Classified, compare_classified, task_values
from burnish.evaluate.config import EvaluateConfig
from burnish.evaluate.head_rows import HeadResult, HeadRows
from burnish.evaluate.heads import HEADS, HeadScoring
from burnish.evaluate.intervals import bootstrap_ratio, paired_bootstrap
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.evaluate.measures import differences, measured
from burnish.evaluate.measures import values as measures_of
from burnish.evaluate.scored_intervals import paired_differences, with_intervals
from burnish.evaluate.squad import Reference
from burnish.evaluate.text import TEXT_METRICS, mean_length
from burnish.models.generate import Generation
from burnish.models.generate_tasks import generate_tasks

Unit = Literal["token", "row", "word", "window", "pair"]
ACROSS_TASKS = ("mcc", "roc_auc", "pr_auc")
"""Metrics that compare every row with every class. Where tasks have classes of their own, another task's is never said,
which would raise them: they are given task by task only."""


def _no_numbers() -> Numbers:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Split:
    """Held-out rows, ready to be scored.

    Attributes:
        name: ``validation`` or ``test``.
        table: The rows as tokens.
        examples: The same rows as examples.
        asked: The rows as questions, where the recipe names choices.
        choices: Names of the possible answers: the recipe's choices, or the classes of a classification.
        true: [N] number of each row's true answer; empty without choices.
        rows: The same rows for a head that gives more than one class a row; else None.
        class_tasks: The task of each choice, where tasks have classes of their own.
    """

    name: str
    table: TokenTable
    examples: Sequence[Example]
    asked: Sequence[Question] = ()
    choices: tuple[str, ...] = ()
    true: Numbers = field(default_factory=_no_numbers)
    rows: HeadRows | None = None
    class_tasks: tuple[str, ...] = ()

    @classmethod
    def make(
        cls, name: str, table: TokenTable, examples: Sequence[Example], config: EvaluateConfig, renderer: Renderer
    ) -> Split:
        """Prepare rows for scoring.

        Raises:
            UserError: A target is none of the recipe's choices.
        """
        if isinstance(renderer, LabelledRenderer) and renderer.task in HEADS:
            return cls(name, table, examples, rows=HeadRows(table, examples, renderer))
        if isinstance(renderer, LabelledRenderer):
            own = renderer.class_tasks if isinstance(renderer, OwnClassesRenderer) else ()
            return cls(name, table, examples, (), renderer.labels, table.labels, class_tasks=own)
        if not config.choices:
            return cls(name, table, examples)
        true = true_choices(examples, config.choices)
        asked = questions(examples, config.choices, renderer, true)
        return cls(name, table, examples, asked, config.choices, true)

    @property
    def head(self) -> HeadScoring | None:
        """How the head is scored, where it gives more than one class a row."""
        return HEADS[self.rows.renderer.task] if self.rows else None

    @property
    def unit(self) -> Unit:
        """What the loss is a mean over."""
        if self.head:
            return self.head.unit
        return "row" if self.table.is_labelled else "token"

    @property
    def questions(self) -> int:
        """How many examples there are; windows of one are counted once."""
        return len(self.rows) if self.rows else len(self.table)

    def subset(self, rows: Sequence[int]) -> Split:
        """Some of the rows, in the order given."""
        asked = [self.asked[r] for r in rows] if self.asked else ()
        true = self.true[list(rows)] if self.choices else self.true
        return replace(self, table=self.table.take(rows), examples=some_of(self.examples, rows), asked=asked, true=true)

    def work(self, view: View) -> int:
        """Units of progress that scoring reports."""
        return len(self.table) if self.unit != "token" else work(view, self.table, self.asked)

    def score(self, view: View, progress: Progress | None = None) -> tuple[RowLosses, Scores]:
        """Loss of every row, and its log-likelihood of every answer, [N, K]."""
        if self.unit == "row":
            return score_classes(view, self.table, progress)
        return score_rows(view, self.table, self.asked, progress)


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one split.

    Attributes:
        split: Its name.
        losses: Loss of every row.
        classified: Counts, with choices.
        scores: [N, K] log-likelihood of every choice.
        answers: Generated answers, with text metrics.
        text: The text metrics.
        seed: Seed of the intervals.
        unit: What the loss is a mean over: trained tokens, rows, or what the head says.
        result: What the head answered, where it gives more than one class a row.
        truth: [N] number of each row's true answer, with choices.
        class_tasks: The task of each choice, where tasks have classes of their own.
    """

    split: str
    losses: RowLosses
    classified: Classified | None = None
    scores: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    answers: Sequence[Generation] = ()
    text: dict[str, dict[str, float]] = field(default_factory=dict)
    seed: int = 0
    unit: Unit = "token"
    result: HeadResult | None = None
    labels: tuple[str, ...] = ()
    truth: Numbers = field(default_factory=_no_numbers)
    class_tasks: tuple[str, ...] = ()

    def values(self) -> dict[str, float]:
        """Metrics by name, without intervals."""
        values = {"loss": self.losses.mean}
        if self.unit == "token":
            values["perplexity"] = perplexity(self.losses.mean)
        if self.result:
            values |= measures_of(self.result.columns, HEADS[self.result.task].measures)
        if self.classified:
            values |= {"accuracy": self.classified.accuracy, "macro_f1": self.classified.macro_f1}
            values |= task_values(self.classified, self.class_tasks)
        return values | {name: score["value"] for name, score in self.text.items()}

    def to_json(self) -> dict[str, Any]:
        """Metrics with 95 % intervals, and the tables of a classification."""
        low, high = bootstrap_ratio(self.losses.totals, self.losses.counts, self.seed)
        mean = self.losses.mean
        metrics = {"loss": {"value": mean, "low": low, "high": high}}
        if self.unit == "token":
            metrics["perplexity"] = {"value": perplexity(mean), "low": perplexity(low), "high": perplexity(high)}
        if self.result:
            head = HEADS[self.result.task]
            own = measured(self.result.columns, head.measures, self.seed)
            tables = head.tables(self.result.columns, self.labels)
            return {**tables, "unit": self.unit, "metrics": own | metrics}
        if not self.classified:
            return {"metrics": metrics | self.text}
        scored = with_intervals(probabilities_of(self.scores), self.truth, self.seed)
        if self.unit == "row":
            del scored["log_loss"]  # the loss is the same number
        scored = {name: one for name, one in scored.items() if not (self.class_tasks and name in ACROSS_TASKS)}
        unit = {"unit": "row"} if self.unit == "row" else {}
        return {**self.classified.tables(), **unit, "metrics": scored | self.text | metrics}


def evaluate(
    view: View, split: Split, config: EvaluateConfig, renderer: Renderer, progress: Progress | None = None
) -> Evaluation:
    """Score a model on a split: loss always, choices and text metrics where the recipe asks for them.

    Args:
        view: The model.
        split: The rows.
        config: What to measure.
        renderer: How prompts become tokens.
        progress: Told how many rows are done, of those that ``split.work`` counts.
    """
    if split.rows and split.head:
        losses, result = split.head.score(view, split.rows, progress)
        labels = split.rows.renderer.labels
        return Evaluation(split.name, losses, seed=config.seed, unit=split.unit, result=result, labels=labels)
    rows = len(split.table)
    losses, scores = split.score(view, progress)
    classified = None
    if split.choices:
        predicted = scores.argmax(1)  # the first of equals
        classified = Classified.count(split.choices, split.true, predicted)
    answers: list[Generation] = []
    text: dict[str, dict[str, float]] = {}
    if config.metrics:
        prompts = [split.table.prompt(i).tolist() for i in range(rows)]
        tasks = split.table.tasks_of(range(rows))
        answers = generate_tasks(view.loaded, prompts, tasks, config.generate, view.batch_tokens)
        targets = [Reference(e.target_text, e.items) for e in split.examples]
        for name in config.metrics:
            text |= TEXT_METRICS[name]([a.text for a in answers], targets, config.seed)
        text["stopped"] = TEXT_METRICS["exact_match"](["x" if a.stopped else "" for a in answers], ["x"] * rows, 0)[
            "exact_match"
        ]
        text["mean_length"] = mean_length([len(a.token_ids) for a in answers], config.seed)
    found = Evaluation(split.name, losses, classified, scores, answers, text, config.seed, split.unit)
    return replace(found, truth=split.true, class_tasks=split.class_tasks)


def compare(base: Evaluation, tuned: Evaluation) -> dict[str, dict[str, float]]:
    """Tuned minus base on the same rows: accuracy with McNemar's p-value, everything else with its paired interval."""
    difference, low, high = paired_bootstrap(base.losses.totals, tuned.losses.totals, base.losses.counts, base.seed)
    result: dict[str, dict[str, float]] = {"loss": {"difference": difference, "low": low, "high": high}}
    if base.result and tuned.result:
        measures = HEADS[base.result.task].measures
        result |= differences(base.result.columns, tuned.result.columns, measures, base.seed)
    if base.classified:
        right = [e.scores.argmax(1) == base.truth for e in (base, tuned)]
        before, after = (probabilities_of(e.scores) for e in (base, tuned))
        paired = paired_differences(before, after, base.truth, base.seed)
        without = {"log_loss"} if base.unit == "row" else set()
        names = [name for name in paired if name not in without.union(ACROSS_TASKS if base.class_tasks else ())]
        result |= {name: paired[name] for name in names} | {"accuracy": compare_classified(*right)}
    return result


def probabilities_of(scores: np.ndarray) -> np.ndarray:
    """[N, K] shares of the likelihoods, ``softmax(scores)`` row by row."""
    if not len(scores):
        return scores
    shares = np.exp(scores - scores.max(1, keepdims=True))
    return shares / shares.sum(1, keepdims=True)


def learnt_nothing(base: Evaluation, tuned: Evaluation) -> bool:
    """Whether the tuned model answers every row exactly as the base model does."""
    return bool(np.array_equal(base.losses.totals, tuned.losses.totals))


def predictions(split: Split, **models: Evaluation) -> Iterator[dict[str, Any]]:
    """One row of ``predictions.jsonl`` per held-out row, with the answers and scores of each model; one at a time."""
    results = {name: one.result.rows for name, one in models.items() if one.result}
    if results:
        for rows in zip(*results.values(), strict=True):
            told = {key: rows[0][key] for key in ("id", "prompt", "target")}
            yield {**told, **{name: row["answer"] for name, row in zip(results, rows, strict=True)}}
        return
    for i, example in enumerate(split.examples):
        row: dict[str, Any] = {"id": example.id, "prompt": example.prompt_text, "target": example.target_text}
        if split.class_tasks:
            row |= {"target": split.choices[split.true[i]], "task": example.task}
        for name, result in models.items():
            row[name] = _answer(result, i, split.choices)
        yield row


def _answer(result: Evaluation, row: int, choices: Sequence[str]) -> dict[str, Any]:
    answer: dict[str, Any] = {"loss": float(result.losses.totals[row] / max(1.0, result.losses.counts[row]))}
    if len(result.scores):
        answer["predicted"] = choices[int(result.scores[row].argmax())]
        own = [k for k, task in enumerate(result.class_tasks) if task == result.class_tasks[result.truth[row]]]
        scores = result.scores[row][own or slice(None)]
        choices = [choices[k] for k in own] or choices
        answer["scores"] = {c: float(s) for c, s in zip(choices, scores, strict=True)}
        shares = probabilities_of(scores[None])[0]
        answer["probability"] = float(shares.max())
        if result.unit == "row":
            answer["probabilities"] = {c: float(p) for c, p in zip(choices, shares, strict=True)}
    if len(result.answers):
        answer["text"] = result.answers[row].text
        answer.setdefault("predicted", result.answers[row].text)
    return answer


def perplexity(loss: float) -> float:
    """``exp(loss)``, infinite where that overflows."""
    return math.exp(loss) if loss < 700 else float("inf")
