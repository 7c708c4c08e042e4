"""How the head of each task is scored: a table, so that nothing else knows them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from burnish.core.findings import Finding
from burnish.evaluate.answers import SPAN_MEASURES, choose_threshold, score_answers, span_tables
from burnish.evaluate.head_rows import HeadResult, HeadRows
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.evaluate.measures import Columns, Measures
from burnish.evaluate.numbers import (
    PAIR_MEASURES,
    SCORE_MEASURES,
    SEVERAL_MEASURES,
    choose_thresholds,
    score_pairs,
    score_scores,
    score_several,
    several_tables,
)
from burnish.evaluate.tags import ENTITY_MEASURES, entity_tables, score_tags

Labels = tuple[str, ...]


def _nothing(columns: Columns, labels: Labels) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class HeadScoring:
    """One entry of the table.

    Attributes:
        unit: What the loss is a mean over.
        score: The loss of every row, and what the head answers to each example.
        measures: The metrics, from the columns of the result.
        tables: More of the evaluation, from columns and labels.
        choose: What is chosen on the validation rows when training is over, as settings of the head, and said.
    """

    unit: Literal["row", "word", "window", "pair"]
    score: Callable[[View, HeadRows, Progress | None], tuple[RowLosses, HeadResult]]
    measures: Measures
    tables: Callable[[Columns, Labels], dict[str, Any]] = _nothing
    choose: Callable[[Columns, Mapping[str, Any], Labels], tuple[dict[str, Any], list[Finding]]] | None = None


HEADS: Mapping[str, HeadScoring] = {
    "token-classification": HeadScoring("word", score_tags, ENTITY_MEASURES, entity_tables),
    "extractive-qa": HeadScoring("window", score_answers, SPAN_MEASURES, span_tables, choose_threshold),
    "multi-label": HeadScoring("row", score_several, SEVERAL_MEASURES, several_tables, choose_thresholds),
    "regression": HeadScoring("row", score_scores, SCORE_MEASURES),
    "ranking": HeadScoring("pair", score_pairs, PAIR_MEASURES),
}
"""The tasks whose head gives more than one class a row, by the task of its renderer."""
