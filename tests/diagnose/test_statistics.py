"""Robust statistics against numbers by hand and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from burnish.diagnose.rates import log_slopes, smooth, suggest
from burnish.diagnose.statistics import (
    autocorrelation,
    first_lasting,
    level,
    noise,
    running_median,
    spread,
    trailing_median,
    trend,
)


def test_spreads_by_hand() -> None:
    """Of 1, 2, 3, 4, 100 the median is 3 and the deviations are 2, 1, 0, 1, 97, whose median is 1."""
    assert spread(np.array([1.0, 2, 3, 4, 100])) == pytest.approx(1.4826)


def test_noise_does_not_see_a_slope() -> None:
    """A line has none; noise of spread 1 on a line of slope 1 has 1, to the 5 % that 4,000 values allow."""
    assert noise(np.arange(50.0)) == 0.0
    values = np.arange(4000.0) + np.random.default_rng(0).normal(size=4000)
    assert noise(values) == pytest.approx(1.0, rel=0.05)


def test_level_has_the_error_of_a_median() -> None:
    """sqrt(pi/2) / sqrt(n) of the spread."""
    values = np.random.default_rng(1).normal(5.0, 1.0, 2500)
    middle, error = level(values)
    assert middle == pytest.approx(5.0, abs=4 * error)
    assert error == pytest.approx(math.sqrt(math.pi / 2) / 50, rel=0.06)


def test_running_medians_by_hand() -> None:
    values = np.array([5.0, 1, 4, 2, 9])
    assert running_median(values, 3).tolist() == [3.0, 4.0, 2.0, 4.0, 5.5]  # ends: (5,1), (2,9)
    assert trailing_median(values, 3).tolist() == [5.0, 3.0, 4.0, 2.0, 4.0]
    assert running_median(values[:2], 5).tolist() == [3.0, 3.0]  # shorter than a window


def test_trend_is_scipys() -> None:
    """Slope of Theil and Sen, and Kendall's test with the continuity correction."""
    values = 0.3 * np.arange(40.0) + np.random.default_rng(2).normal(size=40) * 3
    slope, z = trend(values)
    assert slope == pytest.approx(stats.theilslopes(values).slope)
    pairs = [(j - i, np.sign(values[j] - values[i])) for i in range(40) for j in range(i + 1, 40)]
    s = sum(sign for _, sign in pairs)
    assert z == pytest.approx((s - 1) / math.sqrt(40 * 39 * 85 / 18))


def test_autocorrelation_of_a_swing() -> None:
    """A series of alternating signs has close to -1; noise stays far from it."""
    swing = autocorrelation(np.tile([1.0, -1.0], 20))
    assert swing < -0.9
    noise_alone = autocorrelation(np.random.default_rng(3).normal(size=4000))
    assert noise_alone == pytest.approx(-0.3125 / 0.71875, abs=0.06)  # sums of products of (-1 -2 6 -2 -1) / 8


def test_first_lasting() -> None:
    assert first_lasting(np.array([True, False, True, True])) == 2
    assert first_lasting(np.array([True, False])) is None


def test_smoothing_by_hand() -> None:
    """With b = 0.7 and losses 1, 2: s_1 = 0.3/0.3 = 1, s_2 = (0.21 + 0.6)/0.51 = 1.588235."""
    assert smooth(np.array([1.0, 2.0])).tolist() == pytest.approx([1.0, 0.81 / 0.51])


def test_slopes_of_a_line() -> None:
    """Every window of a line of slope -2 has slope -2."""
    assert log_slopes(-2 * np.arange(20.0)) == pytest.approx(np.full(20, -2.0))


def test_a_rate_is_suggested_between_its_bounds() -> None:
    """A loss that rests at 5 to a rate of 1e-4, falls along a line to 1 at 1e-2 and explodes behind it.

    The steepest place lies on the line, the turn near 1e-2, and the suggestion is their mean and a third at most.
    """
    rates = np.logspace(-5, -1, 81)
    logs = np.log10(rates)
    losses = np.where(logs < -4, 5.0, np.where(logs < -2, 5 - 2 * (logs + 4), 1 + 30 * (logs + 2)))
    found = suggest(rates.tolist(), losses.tolist())
    assert found.turned and found.steepest is not None and found.rate is not None
    assert 1e-4 < found.steepest < 1e-2 and found.turn == pytest.approx(1e-2, rel=0.3)
    assert found.rate == pytest.approx(min(math.sqrt(found.steepest * found.turn / 10), found.turn / 3))


def test_noise_suggests_no_rate() -> None:
    losses = 1 + 0.05 * np.random.default_rng(4).normal(size=60)
    found = suggest(np.logspace(-5, -1, 60).tolist(), losses.tolist())
    assert found.rate is None and not found.turned
