"""Learning curves: known ones come back, intervals cover, a point that does not fit is seen, words say what holds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.optimize import curve_fit

from burnish.compare.need_words import answers
from burnish.plan.learning_curve import EXPONENTIAL, PLAIN, POWER, fit_learning_curve

SIZES = (250, 500, 1000, 2000, 4000)
Runs = dict[int, list[float]]


def power(n: Any, a: float = 0.85, b: float = 2.0, c: float = 0.4) -> Any:
    return a - b * n**-c


def exact(curve: Any = power, spread: float = 1e-3) -> Runs:
    """Three seeds around the curve, whose mean lies on it."""
    return {n: [curve(n) + d for d in (-spread, 0.0, spread)] for n in SIZES}


def noisy(draw: np.random.Generator, spread: float, a: float, b: float, c: float) -> Runs:
    return {n: [power(n, a, b, c) + float(draw.normal()) * spread for _ in range(3)] for n in SIZES}


@pytest.mark.parametrize(("a", "b", "c"), [(0.85, 2.0, 0.4), (0.8, 9.0, 0.75), (0.95, 1.5, 0.25)])
def test_a_known_power_law_comes_back(a: float, b: float, c: float) -> None:
    """Without noise a, b, c are found, q(27,000) with them, and the rows n = ((a - q) / b)^(-1/c) of a quality."""
    found = fit_learning_curve(exact(lambda n: power(n, a, b, c)))
    best = found.best
    assert found.family == POWER and not found.why_not and best is not None
    assert (best.a[0], best.b[0], best.shape[0]) == pytest.approx((a, b, c), rel=0.02)
    assert found.at(27_000).value == pytest.approx(power(27_000, a, b, c), abs=5e-4)
    target = power(12_000, a, b, c)
    assert found.sizes_for(target).value == pytest.approx(12_000, rel=0.02)
    assert found.checks[POWER].holds and found.checks[POWER].error < 3e-4


def test_the_fit_is_that_of_scipy() -> None:
    """The same least squares by Levenberg-Marquardt, weighted by the pooled spread v' = (4 v + 2 v_k) / 6."""
    values = noisy(np.random.default_rng(4), 0.004, 0.85, 2.0, 0.4)
    found = fit_learning_curve(values)
    own = np.array([np.var(values[n], ddof=1) for n in SIZES])
    spread = np.sqrt((4 * own.mean() + 2 * own) / 6)
    assert found.spread == pytest.approx(spread)
    means = [np.mean(values[n]) for n in SIZES]
    (a, b, c), _ = curve_fit(power, np.array(SIZES, float), means, p0=(0.8, 1, 0.5), sigma=spread / np.sqrt(3))
    assert found.best is not None
    assert (found.best.a[0], found.best.b[0], found.best.shape[0]) == pytest.approx((a, b, c), rel=5e-3)


def test_a_loss_falls() -> None:
    """q = 0.4 + 3 n^(-0.5), less is better: the same curve with the other sign."""
    found = fit_learning_curve(exact(lambda n: 0.4 + 3 * n**-0.5), higher=False, limit=0.0)
    assert found.best is not None and found.best.a[0] == pytest.approx(-0.4, rel=0.02)
    assert found.at(16_000).value == pytest.approx(0.4 + 3 / math.sqrt(16_000), abs=1e-3)
    assert found.sizes_for(0.43).value == pytest.approx(10_000, rel=0.05)


def test_a_share_does_not_exceed_one() -> None:
    """Straight in the logarithm of n up to 0.97: no fitted curve ends above 1, and the plain power law is at 1."""
    values = exact(lambda n: 0.5 + 0.13 * math.log10(n), 1e-3)
    found = fit_learning_curve(values)
    assert found.best is not None and found.draws is not None
    assert found.best.a[0] <= 1 and (found.draws.a <= 1).all() and found.at(60_000).high < 1.01
    assert np.all(fit_learning_curve(exact(lambda n: 1 - 2 * n**-0.3)).checks[PLAIN].error < 1e-3)


def test_another_family_where_the_power_law_fails() -> None:
    """1 / 2 (1 - exp(-n / 600)) stops growing at 2,000 rows: its largest point is where the exponential says."""
    found = fit_learning_curve(exact(lambda n: 0.5 * (1 - math.exp(-n / 600))))
    assert not found.checks[POWER].holds and found.family == EXPONENTIAL and not found.why_not
    assert found.at(8000).value == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("a", "b", "c", "spread"), [(0.85, 2.0, 0.4, 0.006), (0.95, 1.5, 0.25, 0.004)])
def test_the_interval_covers(a: float, b: float, c: float, spread: float) -> None:
    """Of 25 simulated tasks at least 22 have what one training on 27,000 rows reaches in the interval of 95 %: with a
    true share of 0.95 fewer than 22 have a probability of 0.034, and the seeds are fixed."""
    draw, inside = np.random.default_rng(11), 0
    for number in range(25):
        found = fit_learning_curve(noisy(draw, spread, a, b, c), seed=number)
        value = found.at(27_000)
        inside += value.low <= power(27_000, a, b, c) + spread * float(draw.normal()) <= value.high
    assert inside >= 22


def test_the_interval_grows_with_the_distance_and_the_noise() -> None:
    calm = fit_learning_curve(noisy(np.random.default_rng(2), 0.002, 0.85, 2.0, 0.4))
    loud = fit_learning_curve(noisy(np.random.default_rng(2), 0.008, 0.85, 2.0, 0.4))
    widths = [[one.at(n).high - one.at(n).low for n in (4000, 8000, 32_000)] for one in (calm, loud)]
    assert widths[0] == sorted(widths[0]) and all(x < y for x, y in zip(*widths, strict=True))


def test_one_seed_takes_its_noise_from_the_curve() -> None:
    """Without a second seed the spread is what a power law leaves of K points: squares over K - 3."""
    values = {n: [v[0]] for n, v in noisy(np.random.default_rng(5), 0.005, 0.85, 2.0, 0.4).items()}
    found = fit_learning_curve(values)
    assert len(set(found.spread.tolist())) == 1 and 0 < found.spread[0] < 0.05
    assert found.at(8000).low < found.at(8000).value < found.at(8000).high


def test_the_words_of_a_curve() -> None:
    """a = 0.85: twice the data is 8,000 rows with q = 0.7951; 0.80 takes ((0.85 - 0.8) / 2)^(-2.5) = 10,119 rows."""
    found = fit_learning_curve(exact())
    twice, asked, distant, target, reached, beyond, far = answers(
        found, "macro_f1", targets=(0.80, 0.70, 0.9, 0.845), rows=(27_000, 100_000)
    )
    assert twice.words.startswith("with twice the data, 8,000 rows, expect macro-F1 0.795 (") and twice.known
    assert asked.words.startswith("with 27,000 rows expect macro-F1 0.816 (")
    assert target.words.startswith("for macro-F1 0.8 you need about 10,000 rows (")
    assert reached.words == "macro-F1 0.7 is reached with 1,000 rows, as measured"  # 0.85 - 2 * 1000^-0.4 = 0.724
    assert not beyond.known and "because the curve ends at 0.850" in beyond.words
    assert not far.known and "beyond 16 times the 4,000 rows" in far.words  # 0.005: (0.0025)^-2.5 = 3.2 million
    assert not distant.known and "more than 16 times" in distant.words


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({n: exact()[n] for n in SIZES[:4]}, "4 sizes are too few"),
        (exact() | {4000: [0.60, 0.601, 0.599]}, "no curve through the smaller sizes predicts the largest"),
        ({n: [0.5 + d for d in (-0.01, 0.0, 0.01)] for n in SIZES}, "does not clearly grow"),
    ],
)
def test_when_nothing_can_be_said(values: Runs, why: str) -> None:
    """Every question is answered by the reason."""
    found = fit_learning_curve(values)
    assert why in found.why_not
    told = answers(found, "macro_f1", (0.8,), (9000,))
    assert len(told) == 3 and not any(one.known for one in told)
    assert all(one.words == f"cannot tell, because {found.why_not}" for one in told)
