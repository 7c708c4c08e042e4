"""Intervals and paired tests against scipy, statsmodels' published numbers and arithmetic by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from burnish.evaluate.classification import macro_f1
from burnish.evaluate.intervals import bootstrap_confusion, bootstrap_ratio, holm, mcnemar, paired_bootstrap, wilson


@pytest.mark.parametrize(("successes", "total"), [(0, 10), (5, 10), (567, 1000), (1000, 1000)])
def test_wilson_equals_scipy(successes: int, total: int) -> None:
    expected = binomtest(successes, total).proportion_ci(0.95, method="wilson")
    assert wilson(successes, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.integers(1, 500), st.data())
def test_wilson_holds_the_proportion_and_stays_within_0_and_1(total: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, total))
    low, high = wilson(successes, total)
    assert -1e-12 <= low <= successes / total + 1e-12 and successes / total - 1e-12 <= high <= 1 + 1e-12


def test_mcnemar_by_hand() -> None:
    """2 against 8 discordant rows: 2 * (C(10,0) + C(10,1) + C(10,2)) / 2**10 = 2 * 56 / 1024 = 0.109375."""
    assert mcnemar(2, 8) == mcnemar(8, 2) == pytest.approx(0.109375)
    assert mcnemar(0, 0) == 1.0


def test_bootstrap_of_a_mean_is_the_textbook_interval() -> None:
    """1,000 draws with standard deviation 2: half width 1.96 * 2 / sqrt(1000) = 0.124, to 10 %."""
    values = np.random.default_rng(0).normal(5, 2, 1000)
    low, high = bootstrap_ratio(values, np.ones(1000), seed=1)
    assert (high - low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(1000), rel=0.1)
    assert low < values.mean() < high


def test_ratio_weighs_rows_by_their_units() -> None:
    """Every row has loss 3 per token, rows differ in length: each resample gives 3 exactly."""
    counts = np.asarray([1.0, 10.0, 100.0])
    assert bootstrap_ratio(3 * counts, counts, seed=0) == pytest.approx((3.0, 3.0))


def test_paired_difference_is_narrower_than_two_intervals() -> None:
    """The second model is better by 0.1 on every row: difference -0.1 with no width, however much the rows differ."""
    first = np.random.default_rng(0).uniform(0, 10, 200)
    assert paired_bootstrap(first, first - 0.1, np.ones(200), seed=0) == pytest.approx((-0.1, -0.1, -0.1))


def test_bootstrap_of_a_confusion_matrix() -> None:
    """Accuracy as the statistic: its interval is Wilson's to 0.01; a perfect matrix has no width."""
    confusion = np.asarray([[300, 100], [50, 150]])
    accuracy = lambda m: (m[:, 0, 0] + m[:, 1, 1]) / m.sum((1, 2))  # noqa: E731
    assert bootstrap_confusion(confusion, accuracy, 0) == pytest.approx(wilson(450, 600), abs=0.01)
    assert bootstrap_confusion(np.diag([5, 5]), macro_f1, 0)[1] == 1.0


def test_same_seed_same_interval() -> None:
    values = np.arange(50.0)
    assert bootstrap_ratio(values, np.ones(50), 3) == bootstrap_ratio(values, np.ones(50), 3)
    assert bootstrap_ratio(values, np.ones(50), 3) != bootstrap_ratio(values, np.ones(50), 4)


def test_nothing_to_measure_is_nan() -> None:
    assert np.isnan(wilson(0, 0)).all()
    assert np.isnan(bootstrap_ratio(np.zeros(0), np.zeros(0), 0)).all()


def test_holm_by_hand() -> None:
    """Of 0.01, 0.04, 0.03, 0.005: sorted 0.005 * 4, 0.01 * 3, 0.03 * 2, 0.04 * 1 = 0.02, 0.03, 0.06, 0.04, made
    monotone 0.02, 0.03, 0.06, 0.06."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0] and holm([]) == []
