"""Confident learning by hand, against planted errors, and against `cleanlab` where it is installed."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.evaluate.label_errors import find_label_errors


def planted(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities that know the truth roughly, labels of which 15 % were drawn anew, and which are wrong."""
    draw = np.random.default_rng(seed)
    n, k = int(draw.integers(100, 500)), int(draw.integers(2, 6))
    true = draw.integers(0, k, n)
    logits = draw.normal(0, 1, (n, k))
    logits[np.arange(n), true] += 2.5
    shares = np.exp(logits)
    shares /= shares.sum(1, keepdims=True)
    labels = np.where(draw.random(n) < 0.15, draw.integers(0, k, n), true)
    return shares, labels, labels != true


def test_by_hand() -> None:
    """Rows labelled 0, 0, 0, 1, 1 with p_0 = 0.9, 0.8, 0.1, 0.2, 0.3.

    t_0 = (0.9 + 0.8 + 0.1) / 3 = 0.6, t_1 = (0.8 + 0.7) / 2 = 0.75. Row 2 has p_1 = 0.9 >= 0.75 and is labelled 0: off
    the diagonal. Row 4 has p_1 = 0.7 < t_1 and p_0 = 0.3 < t_0: it counts nowhere. C = [[2, 1], [0, 1]].
    """
    p0 = np.asarray([0.9, 0.8, 0.1, 0.2, 0.3])
    found = find_label_errors(np.stack([p0, 1 - p0], 1), [0, 0, 0, 1, 1])
    np.testing.assert_allclose(found.thresholds, [0.6, 0.75])
    np.testing.assert_array_equal(found.joint, [[2, 1], [0, 1]])
    assert found.rows.tolist() == [2] and found.suggested.tolist() == [1]


@pytest.mark.parametrize("seed", range(10))
def test_planted_errors_come_first(seed: int) -> None:
    """Of the ten labels doubted most at least eight are planted, where 12 % of all are."""
    shares, labels, wrong = planted(seed)
    found = find_label_errors(shares, labels)
    assert wrong[found.rows[:10]].sum() >= min(8, wrong.sum())


@pytest.mark.parametrize("seed", range(10))
def test_rows_and_their_order_equal_cleanlabs(seed: int) -> None:
    filters = pytest.importorskip("cleanlab.filter", reason="`pip install cleanlab` to hold it against the original")
    shares, labels, _ = planted(seed)
    theirs = filters.find_label_issues(
        labels, shares, filter_by="confident_learning", return_indices_ranked_by="normalized_margin", n_jobs=1
    )
    assert find_label_errors(shares, labels).rows.tolist() == theirs.tolist()


def test_a_class_without_rows_is_never_suggested_and_none_give_nothing() -> None:
    shares = np.asarray([[0.2, 0.1, 0.7], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1]])
    assert 2 not in find_label_errors(shares, [0, 0, 1]).suggested
    assert not len(find_label_errors(np.zeros((0, 3)), []).rows)
