"""Temperature scaling against a search of the loss itself, and what it must never do."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import log_loss

from burnish.core.errors import UserError
from burnish.evaluate.calibration import COLDEST, HOTTEST, calibrated, effect, fit_temperature


def overconfident(seed: int, factor: float = 3.0, rows: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are ``factor`` times too large: labels are drawn from the softmax of the true ones."""
    draw = np.random.default_rng(seed)
    logits = draw.normal(0, 1.5, (rows, 3))
    shares = np.exp(log_softmax(logits, 1))
    labels = (draw.random(rows)[:, None] > shares.cumsum(1)).sum(1)
    return factor * logits, labels


@pytest.mark.parametrize("factor", [0.5, 1.0, 3.0])
def test_the_factor_is_found_again(factor: float) -> None:
    """Labels drawn from softmax(z), logits `factor` z: the temperature is the factor, to sampling noise."""
    assert fit_temperature(*overconfident(0, factor)) == pytest.approx(factor, rel=0.08)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_minimum_of_the_loss(seed: int) -> None:
    """Against scipy's bounded search of `scikit-learn`'s own log-loss."""
    logits, labels = overconfident(seed, rows=300)
    loss = lambda t: log_loss(labels, np.exp(log_softmax(logits / t, 1)))  # noqa: E731
    found = minimize_scalar(loss, bounds=(COLDEST, HOTTEST), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits, labels) == pytest.approx(found.x, rel=1e-5)
    assert fit_temperature(log_softmax(logits, 1), labels) == pytest.approx(found.x, rel=1e-5)


def test_calibration_falls_and_no_answer_changes() -> None:
    """Fitted on one half, shown on the other."""
    logits, labels = overconfident(1)
    temperature = fit_temperature(logits[:2000], labels[:2000])
    scores = log_softmax(logits[2000:] / temperature, 1)
    found = effect(scores, labels[2000:], temperature)
    assert found["after"]["ece"] < found["before"]["ece"] / 3
    assert found["after"]["log_loss"] < found["before"]["log_loss"]
    assert found["after"]["accuracy"] == found["before"]["accuracy"]
    np.testing.assert_array_equal(calibrated(logits, temperature).argmax(1), logits.argmax(1))


def test_rows_that_are_all_right_stop_at_the_bound() -> None:
    logits = np.eye(3)[[0, 1, 2]] * 5
    assert fit_temperature(logits, [0, 1, 2]) == pytest.approx(COLDEST)
    assert fit_temperature(logits, [1, 2, 0]) == pytest.approx(HOTTEST)


def test_no_rows_are_refused() -> None:
    with pytest.raises(UserError, match="no rows to fit"):
        fit_temperature(np.zeros((0, 3)), [])
