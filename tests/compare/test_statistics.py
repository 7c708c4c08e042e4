"""Intervals over seeds and rows, paired tests and Holm's correction, against hand-worked numbers and libraries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import f1_score

from burnish.compare.statistics import METRICS, Scored, combined, estimate, pairs, resampled
from burnish.evaluate.resample import Draws


def run(predicted: list[int], true: list[int], losses: list[float] | None = None) -> Scored:
    rows = len(true)
    return Scored(
        tuple(map(str, range(rows))),
        np.array(losses if losses else [1.0] * rows),
        np.ones(rows),
        np.array(true),
        np.array(predicted),
        3,
    )


def drawn(accuracy: float, rows: int, seed: int) -> Scored:
    """A run that answers each row rightly with a probability."""
    draw = np.random.default_rng(seed)
    true = np.random.default_rng(99).integers(0, 3, rows)
    right = draw.random(rows) < accuracy
    return run(np.where(right, true, (true + 1) % 3).tolist(), true.tolist())


def test_without_row_variance_it_is_the_t_test_of_the_seeds() -> None:
    """u = 0: the degrees of freedom are S - 1, and p and interval those of `scipy.stats.ttest_1samp`."""
    seeds = np.array([0.02, 0.05, 0.03])
    oracle = stats.ttest_1samp(seeds, 0.0)
    found = combined(seeds, 0.0, 1000)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-9)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval()), rel=1e-9)


def test_with_one_seed_only_the_rows_count() -> None:
    """v is left out: f = N - 1 and the half width t(0.975, 99) * 0.1 = 0.19842."""
    found = combined(np.array([0.5]), 0.01, 100)
    assert found.high - found.value == pytest.approx(stats.t.ppf(0.975, 99) * 0.1)


def test_satterthwaite_by_hand() -> None:
    """Seeds 1 and 3: v = 2 / 2 = 1; u = 3, N = 10: f = 16 / (1 + 9 / 9) = 8 and the half width t(0.975, 8) * 2."""
    found = combined(np.array([1.0, 3.0]), 3.0, 10)
    assert found.value == 2.0 and found.high - 2.0 == pytest.approx(stats.t.ppf(0.975, 8) * 2)


def test_metrics_of_the_whole_rows() -> None:
    """With a weight of one for each row the qualities are those of scikit-learn; a loss weighs rows by their units."""
    one = drawn(0.6, 50, 1)
    whole = np.ones((1, 50))
    assert METRICS["accuracy"][0](one, whole)[0] == pytest.approx((one.true == one.predicted).mean())
    assert METRICS["macro_f1"][0](one, whole)[0] == pytest.approx(f1_score(one.true, one.predicted, average="macro"))
    two = Scored(("a", "b"), np.array([1.0, 4.0]), np.array([3.0, 1.0]), one.true[:0], one.true[:0])
    assert METRICS["loss"][0](two, np.ones((1, 2)))[0] == pytest.approx((3 * 1 + 1 * 4) / 4)


def test_the_rows_variance_of_an_accuracy() -> None:
    """One seed, 400 rows, accuracy p: the half width is 1.966 sqrt(p (1 - p) / 400), to the noise of the draws."""
    one = drawn(0.7, 400, 2)
    found = estimate([one], "accuracy", resampled(400))
    p = found.value
    assert (found.high - found.low) / 2 == pytest.approx(1.966 * np.sqrt(p * (1 - p) / 400), rel=0.07)


def test_alike_methods_do_not_differ_and_unlike_ones_do() -> None:
    """a and b answer with the same probability, c with far less; a against itself has no difference at all."""
    weights = resampled(300)
    runs = {
        name: {seed: drawn(accuracy, 300, 10 * place + seed) for seed in range(3)}
        for place, (name, accuracy) in enumerate({"a": 0.75, "b": 0.75, "c": 0.5}.items())
    }
    found = {(p.first, p.second): p for p in pairs(runs, "accuracy", weights)}
    assert not found["a", "b"].significant
    assert found["a", "c"].significant and found["a", "c"].difference.value > 0.15
    assert estimate(list(runs["a"].values()), "accuracy", weights, list(runs["a"].values())).p == 1.0


def test_chance_alone_is_seldom_called_significant() -> None:
    """Forty times four methods that are the same but for chance: the corrected tests find a difference in about 5 % of
    the forty, and in fewer than 8 of them with a probability above 0.998 (binomial)."""
    weights = Draws(120, 400, seed=3)
    false = 0
    for trial in range(40):
        runs = {str(m): {s: drawn(0.6, 120, 1000 + 100 * trial + 10 * m + s) for s in range(3)} for m in range(4)}
        false += any(pair.significant for pair in pairs(runs, "accuracy", weights))
    assert false < 8


def test_a_share_stays_a_share() -> None:
    """Two seeds far apart have an interval beyond [0, 1], which is cut there."""
    one, other = run([0, 1, 2, 0], [0, 1, 2, 0]), run([1, 2, 0, 1], [0, 1, 2, 0])
    found = estimate([one, other], "accuracy", resampled(4))
    assert (found.low, found.high) == (0.0, 1.0)
