"""Metrics over generated answers, counted by `sacrebleu` and `rouge-score`, with bootstrap intervals over rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from burnish.core.errors import UserError
from burnish.core.registry import Registry
from burnish.evaluate.intervals import bootstrap_ratio, wilson

try:
    import sacrebleu
except ImportError:  # the `metrics` extra
    sacrebleu = None  # type: ignore[assignment]
try:
    from rouge_score import rouge_scorer
except ImportError:
    rouge_scorer = None

RESAMPLES = 200
"""Resamples of a corpus metric: each recounts the corpus from the rows' statistics."""

Scores = dict[str, dict[str, float]]
TextMetricFunction = Callable[[Sequence[str], Sequence[str], int], Scores]
TEXT_METRICS: Registry[TextMetricFunction] = Registry("text metric")


def require_metrics(names: Sequence[str]) -> None:
    """Refuse metrics whose library is missing, before anything is generated."""
    needs = {"bleu": (sacrebleu, "sacrebleu"), "chrf": (sacrebleu, "sacrebleu"), "rouge": (rouge_scorer, "rouge-score")}
    missing = sorted({needs[name][1] for name in names if name in needs and needs[name][0] is None})
    if missing:
        raise UserError(
            f"not installed: {', '.join(missing)}", where="evaluate.metrics", fix="pip install 'burnish[metrics]'"
        )


@TEXT_METRICS.register("exact_match")
def exact_match(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Share of answers that equal their target, white space at both ends aside."""
    right = sum(a.strip() == t.strip() for a, t in zip(answers, targets, strict=True))
    low, high = wilson(right, len(answers))
    return {"exact_match": {"value": right / max(1, len(answers)), "low": low, "high": high}}


@TEXT_METRICS.register("bleu")
def bleu(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Corpus BLEU of `sacrebleu`, 0 to 100."""
    return {"bleu": _corpus(sacrebleu.metrics.BLEU, answers, targets, seed)}


@TEXT_METRICS.register("chrf")
def chrf(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Corpus chrF of `sacrebleu`, 0 to 100."""
    return {"chrf": _corpus(sacrebleu.metrics.CHRF, answers, targets, seed)}


@TEXT_METRICS.register("rouge")
def rouge(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L from `rouge-score`, 0 to 1."""
    kinds = ("rouge1", "rouge2", "rougeL")
    scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=False)
    rows = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
    return {kind: _mean(np.asarray([row[kind].fmeasure for row in rows]), seed) for kind in kinds}


def _mean(values: np.ndarray, seed: int) -> dict[str, float]:
    low, high = bootstrap_ratio(values, np.ones(len(values)), seed)
    return {"value": float(values.mean()) if len(values) else float("nan"), "low": low, "high": high}


def _corpus(metric: Any, answers: Sequence[str], targets: Sequence[str], seed: int) -> dict[str, float]:
    value = metric().corpus_score(list(answers), [list(targets)]).score
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(0, len(answers), len(answers))
        draws.append(metric().corpus_score([answers[i] for i in chosen], [[targets[i] for i in chosen]]).score)
    low, high = np.percentile(draws, [2.5, 97.5])
    return {"value": float(value), "low": float(low), "high": float(high)}
