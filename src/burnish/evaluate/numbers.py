"""Heads that give a row numbers, scored: several classes at once, a score, which of two texts is preferred."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from burnish.core.findings import Finding
from burnish.data.example import Example
from burnish.data.valued import ScoredRenderer
from burnish.evaluate.classes import head_of
from burnish.evaluate.head_rows import HeadResult, HeadRows, Part, all_logits, answered, head_passes
from burnish.evaluate.intervals import Floats
from burnish.evaluate.loss import Progress, RowLosses, View
from burnish.evaluate.measures import Columns, Measures, class_rows, mean_of, share

HALF = 0.5


def _tally(columns: Columns) -> tuple[Floats, Floats, Floats]:
    """[K] right, said and true of each class."""
    said, true = columns["said"], columns["true"]
    return (said * true).sum(0), said.sum(0), true.sum(0)


def _micro_f1(columns: Columns) -> float:
    right, said, true = _tally(columns)
    return share(2 * right.sum(), said.sum() + true.sum())


def _macro_f1(columns: Columns) -> float:
    """Over all classes; one that is neither said nor true counts 0, as in `scikit-learn` with ``zero_division=0``."""
    right, said, true = _tally(columns)
    sizes = said + true
    return float(np.divide(2 * right, sizes, out=np.zeros_like(right), where=sizes > 0).mean())


SEVERAL_MEASURES: Measures = {
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "subset_accuracy": lambda c: float((c["said"] == c["true"]).all(1).mean()) if len(c["said"]) else float("nan"),
}


def _pearson(x: Floats, y: Floats) -> float:
    """``cov(x, y) / (s_x s_y)``; NaN where one of them does not vary."""
    a, b = x - x.mean(), y - y.mean()
    size = np.sqrt((a**2).sum() * (b**2).sum())
    return float((a * b).sum() / size) if size > 0 else float("nan")


def _ranks(x: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    _, places, sizes = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2)[places].astype(np.float64)


SCORE_MEASURES: Measures = {
    "pearson": lambda c: _pearson(c["said"], c["true"]),
    "spearman": lambda c: _pearson(_ranks(c["said"]), _ranks(c["true"])),
    "mae": lambda c: float(np.abs(c["said"] - c["true"]).mean()),
    "rmse": lambda c: float(np.sqrt(((c["said"] - c["true"]) ** 2).mean())),
}
"""Correlations of scores and of their ranks; errors in the score's own unit."""

PAIR_MEASURES: Measures = {
    "pair_accuracy": lambda c: float((c["margin"] > 0).mean()) if len(c["margin"]) else float("nan"),
    "margin": mean_of("margin"),
}
"""Share of pairs whose chosen text scores higher (equal scores are wrong), and by how much."""


def thresholds_of(settings: Mapping[str, Any], classes: int) -> Floats:
    """[K] the probability from which on a text has each class."""
    return np.asarray(settings.get("thresholds") or [HALF] * classes, dtype=np.float64)


def score_several(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, HeadResult]:
    """Loss of every row, and all classes of each."""
    losses, logits = all_logits(view, rows, progress)
    labels = rows.renderer.labels
    probabilities = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    limits = thresholds_of(head_of(view.loaded).settings, len(labels))

    def parts() -> Iterator[Part]:
        for some, here in rows.chunks():
            shares, true = probabilities[here], rows.table.numbers(np.arange(here.start, here.stop))
            said = shares >= limits
            answers = [
                answered(
                    example,
                    {
                        "predicted": _listed(labels, row),
                        "probabilities": {label: float(p) for label, p in zip(labels, own, strict=True)},
                        "right": bool((row == (wanted > 0)).all()),
                    },
                    _listed(labels, wanted),
                )
                for example, row, own, wanted in zip(some, said, shares, true, strict=True)
            ]
            yield {"said": said, "true": true, "probability": shares}, answers

    return losses, HeadResult.of(rows.renderer.task, parts())


def _listed(labels: Sequence[str], chosen: Sequence[Any]) -> str:
    return ", ".join(label for label, on in zip(labels, chosen, strict=True) if on) or "(none)"


def several_tables(columns: Columns, labels: tuple[str, ...]) -> dict[str, Any]:
    """Precision, recall and F1 of each class."""
    return {"per_class": class_rows(*_tally(columns), labels)}


def choose_thresholds(
    columns: Columns, settings: Mapping[str, Any], labels: tuple[str, ...]
) -> tuple[dict[str, Any], list[Finding]]:
    """For each class the threshold with the highest F1 on these rows; a class without rows keeps one half."""
    pairs = zip(columns["probability"].T, columns["true"].T, strict=True)
    chosen = [best_f1_threshold(shares, true) for shares, true in pairs]
    idle = [label for label, one in zip(labels, chosen, strict=True) if one is None]
    found = [HALF if one is None else one for one in chosen]
    shown = ", ".join(f"{label} {value:.2f}" for label, value in list(zip(labels, found, strict=True))[:12])
    notes = [Finding("note", "evaluate.thresholds", f"thresholds, chosen on the validation rows: {shown}", "task")]
    if idle:
        what = f"no validation row has {', '.join(f'`{n}`' for n in idle[:8])}, so the threshold there stays one half"
        notes.append(Finding("warning", "evaluate.thresholds", what, "data.validation", fix="hold out rows of these"))
    return {"thresholds": found}, notes


def best_f1_threshold(shares: Floats, true: Floats) -> float | None:
    """The probability from which on saying yes gives the highest F1; between two rows it lies in their middle.

    With the rows in falling order, F1 of the first n is ``2 TP_n / (n + P)``. The first of equals is taken, which says
    yes to fewer.
    """
    positives = float(true.sum())
    if not positives:
        return None
    order = np.argsort(-shares, kind="stable")
    ranked = shares[order]
    f1 = 2 * np.cumsum(true[order]) / (np.arange(1, len(order) + 1) + positives)
    last = np.append(ranked[1:] != ranked[:-1], True)  # equal probabilities cannot be parted
    place = int(np.where(last, f1, -1.0).argmax())
    below = ranked[place + 1] if place + 1 < len(ranked) else 0.0
    return float((ranked[place] + below) / 2)


def score_scores(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, HeadResult]:
    """Loss of every row, and its score in its own unit."""
    renderer = rows.renderer
    assert isinstance(renderer, ScoredRenderer)
    losses, logits = all_logits(view, rows, progress)
    scores = logits[:, 0] * renderer.deviation + renderer.mean

    def parts() -> Iterator[Part]:
        for some, here in rows.chunks():
            answers = [
                answered(e, {"predicted": f"{value:.4g}", "value": float(value), "right": None}, e.target_text)
                for e, value in zip(some, scores[here], strict=True)
            ]
            yield {"said": scores[here], "true": [float(e.label) for e in some]}, answers

    return losses, HeadResult.of(rows.renderer.task, parts())


def score_pairs(view: View, rows: HeadRows, progress: Progress | None = None) -> tuple[RowLosses, HeadResult]:
    """Loss of every pair, and by how much its chosen text scores higher."""
    losses = RowLosses.empty(len(rows.table))
    both = np.zeros((len(rows.table), 2))
    for one in head_passes(view, rows.table, losses, progress):
        both[one.rows] = one.logits[:, 0].reshape(2, -1).T.double().cpu().numpy()
    losses, both = losses.over_all(view), view.deal.added(both)
    margins = both[:, 0] - both[:, 1]

    def parts() -> Iterator[Part]:
        for some, here in rows.chunks():
            told = zip(some, both[here], margins[here], strict=True)
            yield {"margin": margins[here]}, [_preferred(example, pair, margin) for example, pair, margin in told]

    return losses, HeadResult.of(rows.renderer.task, parts())


def _preferred(example: Example, pair: Floats, margin: float) -> dict[str, Any]:
    answer = {
        "predicted": "chosen" if margin > 0 else "rejected",
        "chosen": float(pair[0]),
        "rejected": float(pair[1]),
        "probability": float(1 / (1 + np.exp(-min(500.0, abs(margin))))),
        "right": bool(margin > 0),
    }
    prompt = f"{example.prompt or ''}\nchosen: {example.pair}\nrejected: {example.completion}".strip()
    return answered(example, answer, "chosen", prompt)
