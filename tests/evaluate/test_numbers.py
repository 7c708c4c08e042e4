"""Measures of several classes, scores and pairs against `scikit-learn` and `scipy`; thresholds against all tried."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from burnish.evaluate.measures import differences, measured
from burnish.evaluate.numbers import (
    PAIR_MEASURES,
    SCORE_MEASURES,
    SEVERAL_MEASURES,
    best_f1_threshold,
    choose_thresholds,
    several_tables,
)


@pytest.mark.parametrize("seed", range(8))
def test_several_classes_equal_scikit_learns(seed: int) -> None:
    draw = np.random.default_rng(seed)
    true, said = ((draw.random((40, 5)) < p).astype(float) for p in (0.3, 0.35))
    true[:, 4] = said[:, 4] = 0.0  # neither said nor true
    columns = {"true": true, "said": said}
    expected = {
        "macro_f1": metrics.f1_score(true, said, average="macro", zero_division=0),
        "micro_f1": metrics.f1_score(true, said, average="micro", zero_division=0),
        "subset_accuracy": metrics.accuracy_score(true, said),
    }
    assert {n: m(columns) for n, m in SEVERAL_MEASURES.items()} == pytest.approx(expected, rel=1e-12)
    table = several_tables(columns, tuple("abcde"))["per_class"]
    theirs = metrics.precision_recall_fscore_support(true, said, zero_division=0)
    for i, label in enumerate("abcde"):
        own = [table[label][key] for key in ("precision", "recall", "f1", "support")]
        assert own == pytest.approx([float(x[i]) for x in theirs])


@pytest.mark.parametrize("seed", range(8))
def test_scores_equal_scipys(seed: int) -> None:
    """Rounded, so that ranks are shared."""
    draw = np.random.default_rng(seed)
    true = draw.normal(size=50).round(1)
    columns = {"true": true, "said": (true + draw.normal(size=50)).round(1)}
    said = columns["said"]
    expected = {
        "pearson": stats.pearsonr(said, true).statistic,
        "spearman": stats.spearmanr(said, true).statistic,
        "mae": metrics.mean_absolute_error(true, said),
        "rmse": metrics.root_mean_squared_error(true, said),
    }
    assert {n: m(columns) for n, m in SCORE_MEASURES.items()} == pytest.approx(expected, rel=1e-12)


def test_scores_that_do_not_vary_have_no_correlation() -> None:
    assert np.isnan(SCORE_MEASURES["pearson"]({"true": np.arange(4.0), "said": np.ones(4)}))


def test_pairs_by_hand() -> None:
    """Margins 2, 0 and -1: one of three is right, the mean is 1/3."""
    columns = {"margin": np.asarray([2.0, 0.0, -1.0])}
    assert PAIR_MEASURES["pair_accuracy"](columns) == pytest.approx(1 / 3)
    assert PAIR_MEASURES["margin"](columns) == pytest.approx(1 / 3)


@pytest.mark.parametrize("seed", range(12))
def test_no_threshold_gives_a_higher_f1(seed: int) -> None:
    draw = np.random.default_rng(seed)
    shares, true = draw.random(30).round(1), (draw.random(30) < 0.4).astype(float)
    chosen = best_f1_threshold(shares, true)
    assert chosen is not None
    found = metrics.f1_score(true, shares >= chosen, zero_division=0)
    tried = [metrics.f1_score(true, shares >= limit, zero_division=0) for limit in np.linspace(0, 1.05, 22)]
    assert found == pytest.approx(max(tried))


def test_a_class_without_validation_rows_keeps_one_half() -> None:
    columns = {"probability": np.asarray([[0.2, 0.3], [0.4, 0.1]]), "true": np.asarray([[0.0, 0.0], [1.0, 0.0]])}
    chosen, findings = choose_thresholds(columns, {}, ("a", "b"))
    assert chosen["thresholds"] == pytest.approx([0.3, 0.5])
    assert [f.severity for f in findings] == ["note", "warning"] and "`b`" in findings[1].what


def test_intervals_hold_their_value_and_differences_theirs() -> None:
    """The mean of 100 draws of a coin: +- 1.96 sqrt(p q / n); equal columns differ by nothing."""
    draw = np.random.default_rng(0)
    margins = draw.normal(0.2, 1, 400)
    one = measured({"margin": margins}, PAIR_MEASURES, 0)["pair_accuracy"]
    half = 1.96 * np.sqrt(one["value"] * (1 - one["value"]) / 400)
    assert one["low"] == pytest.approx(one["value"] - half, abs=0.01)
    same = differences({"margin": margins}, {"margin": margins}, PAIR_MEASURES, 0)["margin"]
    assert same == {"difference": 0.0, "low": 0.0, "high": 0.0}
    moved = differences({"margin": margins}, {"margin": margins + 1}, PAIR_MEASURES, 0)["margin"]
    assert [moved[k] for k in ("difference", "low", "high")] == pytest.approx([1.0, 1.0, 1.0])
