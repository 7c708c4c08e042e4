"""Counts against `scikit-learn`."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from burnish.evaluate.classification import Classified, compare_classified

LABELS = ("negative", "neutral", "positive")
PAIRS = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40)


@given(PAIRS)
def test_scores_equal_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    true, predicted = zip(*pairs, strict=True)
    ours = Classified.count(LABELS, true, predicted)
    assert ours.accuracy == pytest.approx(metrics.accuracy_score(true, predicted))
    assert ours.macro_f1 == pytest.approx(metrics.f1_score(true, predicted, average="macro", zero_division=0))
    matrix = metrics.confusion_matrix(true, predicted, labels=[0, 1, 2])
    np.testing.assert_array_equal(ours.confusion, matrix)
    theirs = metrics.precision_recall_fscore_support(true, predicted, labels=[0, 1, 2], zero_division=0)
    for i, scores in enumerate(ours.per_class().values()):
        assert [scores[k] for k in ("precision", "recall", "f1", "support")] == pytest.approx([t[i] for t in theirs])


def test_macro_f1_by_hand() -> None:
    """True a a a b, predicted a a b b: F1 of a is 2*2/(3+2) = 0.8, of b 2*1/(1+2) = 2/3, mean 0.7333."""
    assert Classified.count("ab", [0, 0, 0, 1], [0, 0, 1, 1]).macro_f1 == pytest.approx((0.8 + 2 / 3) / 2)


def test_comparison_counts_what_only_one_got_right() -> None:
    """Rows: both, only base, only tuned, only tuned: accuracy 0.5 to 0.75, and p = 2 * (1 + 3) / 8 = 1."""
    result = compare_classified([True, True, False, False], [True, False, True, True])
    assert result == {"difference": 0.25, "p_value": pytest.approx(1.0), "only_base_right": 1, "only_tuned_right": 2}
