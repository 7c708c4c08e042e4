"""Metrics over generated answers, counted by `sacrebleu` and `rouge-score`, with bootstrap intervals over rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from burnish.core.errors import UserError
from burnish.core.registry import Registry
from burnish.evaluate.intervals import bootstrap_ratio, mcnemar, paired_bootstrap, wilson

RESAMPLES = 200
"""Resamples of a corpus metric: each recounts the corpus from the rows' statistics."""

ROUGE = ("rouge1", "rouge2", "rougeL")
LIBRARIES = {"bleu": "sacrebleu", "chrf": "sacrebleu", "rouge": "rouge_score"}
"""What counts a metric; of the `metrics` extra, and loaded when it counts: `rouge-score` takes a second."""

Scores = dict[str, dict[str, float]]
TextMetricFunction = Callable[[Sequence[str], Sequence[str], int], Scores]
TEXT_METRICS: Registry[TextMetricFunction] = Registry("text metric")


def require_metrics(names: Sequence[str]) -> None:
    """Refuse metrics whose library is missing, before anything is generated."""
    needed = {LIBRARIES[name] for name in names if name in LIBRARIES}
    missing = sorted(name.replace("_", "-") for name in needed if find_spec(name) is None)
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
    return {"bleu": _corpus(import_module("sacrebleu").metrics.BLEU, answers, targets, seed)}


@TEXT_METRICS.register("chrf")
def chrf(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Corpus chrF of `sacrebleu`, 0 to 100."""
    return {"chrf": _corpus(import_module("sacrebleu").metrics.CHRF, answers, targets, seed)}


@TEXT_METRICS.register("rouge")
def rouge(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L from `rouge-score`, 0 to 1."""
    return {kind: _mean(values, seed) for kind, values in _rouge_rows(answers, targets).items()}


@TEXT_METRICS.register("distinct")
def distinct(answers: Sequence[str], targets: Sequence[str], seed: int) -> Scores:
    """Share of different ones among all words, and among all pairs of neighbouring words (Li et al., 2016).

    ``distinct_n = |set of n-grams| / |n-grams|`` over all answers together, words parted by white space. Answers that
    repeat themselves or each other come near 0. It falls with the amount of text, so compare equally many rows. No
    interval: in a resample with replacement repeated rows would look like repeated words.
    """
    found = {}
    for n in (1, 2):
        grams = [g for answer in answers for g in _grams(answer.split(), n)]
        found[f"distinct_{n}"] = {"value": len(set(grams)) / len(grams) if grams else float("nan")}
    return found


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def mean_length(counts: Sequence[int], seed: int) -> dict[str, float]:
    """Mean number of tokens of an answer, its end token included."""
    return _mean(np.asarray(counts, dtype=np.float64), seed)


def paired_text(
    name: str, first: Sequence[str], second: Sequence[str], targets: Sequence[str], seed: int
) -> dict[str, dict[str, float]]:
    """Second minus first in a text metric over the same rows.

    Exact match with McNemar's p-value, ROUGE with the paired bootstrap of its rows, BLEU and chrF with that of the
    corpus, recounted for each draw (Koehn, 2004).
    """
    return _PAIRED.get(name, _paired_corpus)(name, first, second, targets, seed)


def _paired_match(name: str, first: Any, second: Any, targets: Any, seed: int) -> dict[str, dict[str, float]]:
    one, other = (
        np.asarray([a.strip() == t.strip() for a, t in zip(answers, targets, strict=True)])
        for answers in (first, second)
    )
    p = mcnemar(int((one & ~other).sum()), int((~one & other).sum()))
    values = {"first": float(one.mean()), "second": float(other.mean())}
    return {name: {**values, "difference": values["second"] - values["first"], "p_value": p}}


def _paired_rouge(name: str, first: Any, second: Any, targets: Any, seed: int) -> dict[str, dict[str, float]]:
    rows = [_rouge_rows(answers, targets) for answers in (first, second)]
    found = {}
    for kind in ROUGE:
        one, other = rows[0][kind], rows[1][kind]
        difference, low, high = paired_bootstrap(one, other, np.ones(len(one)), seed)
        values = {"first": float(one.mean()), "second": float(other.mean())}
        found[kind] = {**values, "difference": difference, "low": low, "high": high}
    return found


def _paired_corpus(name: str, first: Any, second: Any, targets: Any, seed: int) -> dict[str, dict[str, float]]:
    metric = getattr(import_module("sacrebleu").metrics, name.upper())

    def score(answers: Sequence[str], rows: Iterable[int]) -> float:
        rows = list(rows)
        return float(metric().corpus_score([answers[i] for i in rows], [[targets[i] for i in rows]]).score)

    everything = range(len(targets))
    values = {"first": score(first, everything), "second": score(second, everything)}
    generator = np.random.default_rng(seed)
    draws = []
    for _ in range(RESAMPLES):
        chosen = generator.integers(0, len(targets), len(targets))
        draws.append(score(second, chosen) - score(first, chosen))
    low, high = np.percentile(draws, [2.5, 97.5])
    return {name: {**values, "difference": values["second"] - values["first"], "low": float(low), "high": float(high)}}


_PAIRED: dict[str, Callable[..., dict[str, dict[str, float]]]] = {"exact_match": _paired_match, "rouge": _paired_rouge}


def _rouge_rows(answers: Sequence[str], targets: Sequence[str]) -> dict[str, np.ndarray]:
    scorer = import_module("rouge_score.rouge_scorer").RougeScorer(ROUGE, use_stemmer=False)
    rows = [scorer.score(target, answer) for answer, target in zip(answers, targets, strict=True)]
    return {kind: np.asarray([row[kind].fmeasure for row in rows]) for kind in ROUGE}


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
