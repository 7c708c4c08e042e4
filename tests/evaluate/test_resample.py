"""What every bootstrap draws, and how its ends are read off, against `scikit-learn` and numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix

from burnish.evaluate import resample
from burnish.evaluate.resample import Draws, chosen_rows, confusions, ends, multiplicities


def test_draws_hold_as_many_rows_and_follow_the_seed() -> None:
    """Each draw has N rows; the same seed gives the same draws, another one others."""
    weights = multiplicities(30, 50, np.random.default_rng(1))
    assert weights.shape == (50, 30) and (weights.sum(1) == 30).all()
    first, again, other = (np.stack(list(chosen_rows(30, 4, seed))) for seed in (1, 1, 2))
    assert first.shape == (4, 30) and np.array_equal(first, again) and not np.array_equal(first, other)


def test_confusions_of_weighed_rows() -> None:
    """Those of `scikit-learn` with the weights as `sample_weight`, draw by draw."""
    draw = np.random.default_rng(0)
    true, said = draw.integers(0, 3, 40), draw.integers(0, 3, 40)
    weights = multiplicities(40, 5, draw)
    for matrix, weight in zip(confusions(true, said, 3, weights), weights, strict=True):
        assert np.array_equal(matrix, confusion_matrix(true, said, labels=[0, 1, 2], sample_weight=weight))


def test_ends_leave_out_draws_without_a_value() -> None:
    """Of 0, 1, …, 40 the percentiles 2.5 and 97.5 are 1 and 39; of nothing there are none."""
    assert ends([*range(41), float("nan")]) == pytest.approx((1.0, 39.0))
    assert np.isnan(ends([float("nan")])).all() and np.isnan(ends([])).all()


def test_draws_that_are_made_in_parts_are_those_of_one_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven draws of five rows, three at a time where 15 numbers may be held: the generator goes on where it was.

    A product takes the place of the matrix, for one column of values and for several.
    """
    whole = multiplicities(5, 7, np.random.default_rng(3))
    values = np.arange(10.0).reshape(5, 2)
    assert np.array_equal(Draws(5, 7, 3) @ values, whole @ values)
    monkeypatch.setattr(resample, "MOST_NUMBERS", 15)
    assert np.array_equal(Draws(5, 7, 3) @ values, whole @ values)
    assert np.array_equal(Draws(5, 7, 3) @ values[:, 0], whole @ values[:, 0])
