"""What the report knows of each metric: its name, which way is better, and how many digits it deserves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.report.numbers import decimal, number, signed
from burnish.report.read import mapping


@dataclass(frozen=True)
class Metric:
    """A metric in words.

    Attributes:
        name: Its key.
        label: What a table calls it.
        sentence: What a sentence calls it.
        higher_is_better: Which way is better.
        digits: Decimals in a table.
        scale: Both ends of its scale, where it has two.
    """

    name: str
    label: str
    sentence: str
    higher_is_better: bool = True
    digits: int = 3
    scale: tuple[float, float] | None = (0.0, 1.0)

    @property
    def noun(self) -> str:
        """What a sentence calls it, without the article."""
        return self.sentence.removeprefix("the ")

    def gain(self, base: float, tuned: float) -> int:
        """1 when tuned is better, -1 when it is worse, 0 when both are equal."""
        change = tuned - base if self.higher_is_better else base - tuned
        return (change > 0) - (change < 0)


_KNOWN = (
    Metric("macro_f1", "Macro-F1", "macro-F1"),
    Metric("micro_f1", "Micro-F1", "micro-F1"),
    Metric("subset_accuracy", "All classes right", "the share of rows with all classes right"),
    Metric("entity_f1", "Entity F1", "the F1 of entities"),
    Metric("entity_precision", "Entity precision", "the precision of entities"),
    Metric("entity_recall", "Entity recall", "the recall of entities"),
    Metric("pair_accuracy", "Pairs in the right order", "the share of pairs in the right order"),
    Metric("pearson", "Pearson correlation", "the correlation with the true scores", scale=(-1.0, 1.0)),
    Metric("spearman", "Spearman correlation", "the correlation of the ranks", scale=(-1.0, 1.0)),
    Metric("rmse", "Root mean squared error", "the root mean squared error", higher_is_better=False, scale=None),
    Metric("mae", "Mean absolute error", "the mean absolute error", higher_is_better=False, scale=None),
    Metric("margin", "Mean margin", "the mean margin", scale=None),
    Metric("accuracy", "Accuracy", "accuracy"),
    Metric("weighted_f1", "Weighted F1", "the weighted F1"),
    Metric("macro_precision", "Macro precision", "the macro precision"),
    Metric("macro_recall", "Macro recall", "the macro recall"),
    Metric("mcc", "Matthews correlation", "the Matthews correlation", scale=(-1.0, 1.0)),
    Metric("roc_auc", "ROC-AUC", "ROC-AUC"),
    Metric("pr_auc", "PR-AUC", "PR-AUC"),
    Metric("brier", "Brier score", "the Brier score", higher_is_better=False, scale=(0.0, 2.0)),
    Metric("ece", "Calibration error", "the calibration error", higher_is_better=False),
    Metric("log_loss", "Log-loss of choices", "the log-loss", higher_is_better=False, scale=None),
    Metric("exact_match", "Exact match", "the share of exact matches"),
    Metric("squad_exact_match", "Exact match (SQuAD)", "the share of exact matches"),
    Metric("token_f1", "Token F1", "token F1"),
    Metric("rougeL", "ROUGE-L", "ROUGE-L"),
    Metric("rouge1", "ROUGE-1", "ROUGE-1"),
    Metric("rouge2", "ROUGE-2", "ROUGE-2"),
    Metric("bleu", "BLEU", "BLEU", digits=1, scale=(0.0, 100.0)),
    Metric("chrf", "chrF", "chrF", digits=1, scale=(0.0, 100.0)),
    Metric("loss", "Loss per target token", "the loss", higher_is_better=False, scale=None),
    Metric("perplexity", "Perplexity", "the perplexity", higher_is_better=False, digits=2, scale=None),
    Metric("stopped", "Answers that end by themselves", "the share of answers that end by themselves"),
    Metric("distinct_1", "Distinct words", "the share of distinct words"),
    Metric("distinct_2", "Distinct pairs of words", "the share of distinct pairs of words"),
    Metric("mean_length", "Tokens of an answer", "the mean length of an answer", digits=1, scale=None),
)
SAME_AS_ACCURACY = "micro_f1"
"""Of one class a row. In the files for those who look for it; a table that shows accuracy would say it twice."""
METRICS = {metric.name: metric for metric in _KNOWN}
"""In the order in which they are shown; the first that both models have is what the verdict speaks of."""


_LOSS_OF = {
    unit: Metric("loss", f"Loss per {unit}", "the loss", higher_is_better=False, scale=None)
    for unit in ("row", "word", "window", "pair")
}
"""The loss of a head, by what it is a mean over."""


def metric_of(name: str) -> Metric:
    """A metric by its key; one that is not known keeps its key as name, and higher counts as better."""
    return METRICS.get(name) or Metric(name, name.replace("_", " "), name.replace("_", " "), scale=None)


def ordered(*evaluations: Mapping[str, Any]) -> list[Metric]:
    """The metrics that any of the models has, known ones first."""
    present = {name: None for one in evaluations for name in mapping(one.get("metrics"))}
    if "accuracy" in present:
        present.pop(SAME_AS_ACCURACY, None)
    known = [metric for name, metric in METRICS.items() if name in present]
    unit = next((str(one["unit"]) for one in evaluations if one.get("unit") in _LOSS_OF), None)
    if unit:
        known = [_LOSS_OF[unit] if metric.name == "loss" else metric for metric in known]
    return known + [metric_of(name) for name in present if name not in METRICS]


@dataclass(frozen=True)
class Score:
    """A value with its 95 % interval; each may be missing."""

    value: float | None = None
    low: float | None = None
    high: float | None = None

    def text(self, metric: Metric) -> str:
        """The value."""
        return decimal(self.value, metric.digits)

    def interval(self, metric: Metric) -> str:
        """Both ends, or nothing."""
        if self.low is None or self.high is None:
            return ""
        return f"{decimal(self.low, metric.digits)} to {decimal(self.high, metric.digits)}"


def score(evaluation: Mapping[str, Any], name: str) -> Score:
    """One metric of one model; a bare number is a value without an interval."""
    value = mapping(evaluation.get("metrics")).get(name)
    if not isinstance(value, Mapping):
        return Score(number(value))
    return Score(number(value.get("value")), number(value.get("low")), number(value.get("high")))


def apart(first: Score, second: Score) -> bool | None:
    """Whether two intervals do not overlap; None where one is missing."""
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return None
    return first.high < second.low or second.high < first.low


def difference(comparison: Mapping[str, Any], metric: Metric, base: Score, tuned: Score) -> tuple[str, str]:
    """Tuned minus base, and the interval of the difference where there is one."""
    row = mapping(comparison.get(metric.name))
    value = number(row.get("difference"))
    if value is None and base.value is not None and tuned.value is not None:
        value = tuned.value - base.value
    low, high = number(row.get("low")), number(row.get("high"))
    between = "" if low is None or high is None else f"{signed(low, metric.digits)} to {signed(high, metric.digits)}"
    return signed(value, metric.digits), between
