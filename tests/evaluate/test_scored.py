"""Metrics of probabilities against `scikit-learn`, digit by digit, and their intervals against theory."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics

from burnish.core.errors import UserError
from burnish.evaluate.scored import ECE_BINS, MEASURES, Scored, metrics_of
from burnish.evaluate.scored_intervals import paired_differences, resamples_of, with_intervals

SEEDS = range(60)


def fuzzed(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Some rows of some classes: ties, certain answers, classes without rows and classes that are never said."""
    draw = np.random.default_rng(seed)
    n, k = int(draw.integers(2, 300)), int(draw.integers(2, 7))
    probabilities = draw.dirichlet(np.full(k, draw.choice([0.05, 0.5, 5.0])), n)
    if seed % 3 == 0:  # ties: two digits only
        probabilities = np.round(probabilities, 2)
        probabilities /= np.maximum(probabilities.sum(1, keepdims=True), 1e-9)
    biased = np.where(draw.random(n) < 0.5, probabilities.argmax(1), draw.integers(0, max(1, k - seed % 2), n))
    return probabilities, biased


def theirs(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """The same numbers from `scikit-learn`; a ranking is averaged over the classes that have one, as is documented."""
    k = probabilities.shape[1]
    said = probabilities.argmax(1)
    averages = {"zero_division": 0.0, "y_true": labels, "y_pred": said}
    found = {
        "accuracy": metrics.accuracy_score(labels, said),
        "micro_f1": metrics.f1_score(average="micro", **averages),
        "macro_f1": metrics.f1_score(average="macro", **averages),
        "weighted_f1": metrics.f1_score(average="weighted", **averages),
        "macro_precision": metrics.precision_score(average="macro", **averages),
        "macro_recall": metrics.recall_score(average="macro", **averages),
        "mcc": metrics.matthews_corrcoef(labels, said),
        "log_loss": metrics.log_loss(labels, probabilities, labels=list(range(k))),
        "brier": metrics.brier_score_loss(labels, probabilities, labels=list(range(k))),
    }
    ranked = [1] if k == 2 else range(k)
    present = [c for c in ranked if (labels == c).sum() > 0]
    inner = [c for c in present if (labels == c).sum() < len(labels)]
    scores = [metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in inner]
    found["roc_auc"] = float(np.mean(scores)) if scores else float("nan")
    scores = [metrics.average_precision_score(labels == c, probabilities[:, c]) for c in present]
    found["pr_auc"] = float(np.mean(scores)) if scores else float("nan")
    return found


@pytest.mark.parametrize("seed", SEEDS)
def test_every_metric_equals_scikit_learn(seed: int) -> None:
    """Equal in every bit: the sums run in the same order. Rows with ties, unseen and unsaid classes among them."""
    probabilities, labels = fuzzed(seed)
    ours = metrics_of(probabilities, labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = theirs(probabilities, labels)
    assert ours.keys() == expected.keys() | {"ece"} == MEASURES.keys()
    for name, value in expected.items():
        np.testing.assert_equal(ours[name], value, err_msg=name)


def test_macro_auc_is_scikit_learns_own_average() -> None:
    """Where every class has rows, one against the rest, averaged by `roc_auc_score` itself."""
    probabilities, labels = fuzzed(1)
    k = probabilities.shape[1]
    labels[:k] = np.arange(k)
    expected = metrics.roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert metrics_of(probabilities, labels)["roc_auc"] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_error_by_its_formula(seed: int) -> None:
    """Guo et al., eq. 3: bin by bin, |accuracy - mean confidence|, weighted by the bin's share of the rows."""
    probabilities, labels = fuzzed(seed)
    confidence, right = probabilities.max(1), probabilities.argmax(1) == labels
    expected = 0.0
    for b in range(ECE_BINS):
        inside = (confidence > b / ECE_BINS) & (confidence <= (b + 1) / ECE_BINS)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics_of(probabilities, labels)["ece"] == pytest.approx(expected, abs=1e-12)


def test_weights_are_repeated_rows() -> None:
    """A row of weight 3 counts as three rows: what the bootstrap relies on, for every metric."""
    probabilities, labels = fuzzed(4)
    counts = np.random.default_rng(0).integers(0, 4, len(labels))
    repeated = metrics_of(np.repeat(probabilities, counts, 0), np.repeat(labels, counts))
    rows, weights = Scored.of(probabilities, labels), counts.astype(float)
    for name, measure in MEASURES.items():
        assert measure(rows, weights, rows.confusion(weights)) == pytest.approx(repeated[name], abs=1e-12), name


def test_intervals_cover_the_truth() -> None:
    """2,000 rows, accuracy 0.7: the interval of micro-F1, by hand 0.7 +- 1.96 sqrt(0.21 / 2000) = 0.020."""
    draw = np.random.default_rng(3)
    labels = draw.integers(0, 2, 2000)
    said = np.where(draw.random(2000) < 0.7, labels, 1 - labels)
    probabilities = np.where(np.arange(2) == said[:, None], 0.8, 0.2)
    found = with_intervals(probabilities, labels, seed=1)
    for name in ("accuracy", "macro_f1"):
        assert (found[name]["high"] - found[name]["low"]) / 2 == pytest.approx(0.0201, rel=0.1)
        assert found[name]["low"] < found[name]["value"] < found[name]["high"]
    assert found == with_intervals(probabilities, labels, seed=1)
    assert found != with_intervals(probabilities, labels, seed=2)


def test_paired_differences_have_no_width_where_models_differ_alike() -> None:
    """The second is the first with every row a tenth surer of the truth: log-loss differs by log 1.1 on each row."""
    labels = np.arange(60) % 3
    first = np.full((60, 3), 0.25)
    first[np.arange(60), labels] = 0.5
    second = np.full((60, 3), 0.225)
    second[np.arange(60), labels] = 0.55
    found = paired_differences(first, second, labels)["log_loss"]
    assert [found[k] for k in ("difference", "low", "high")] == pytest.approx([-np.log(1.1)] * 3)
    same = paired_differences(first, first, labels)
    assert all(one["difference"] == one["low"] == one["high"] == 0 for one in same.values())


def test_a_real_difference_is_seen_and_none_is_not() -> None:
    """0.8 against 0.6 accuracy on 500 rows is significant; two draws at 0.7 on 100 rows are not."""
    draw = np.random.default_rng(0)

    def model(labels: np.ndarray, rate: float) -> np.ndarray:
        said = np.where(draw.random(len(labels)) < rate, labels, 1 - labels)
        return np.where(np.arange(2) == said[:, None], 0.9, 0.1)

    labels = draw.integers(0, 2, 500)
    clear = paired_differences(model(labels, 0.6), model(labels, 0.8), labels)["macro_f1"]
    assert clear["low"] > 0
    labels = draw.integers(0, 2, 100)
    vague = paired_differences(model(labels, 0.7), model(labels, 0.7), labels)["macro_f1"]
    assert vague["low"] < 0 < vague["high"]


def test_one_class_only_has_no_ranking() -> None:
    found = metrics_of([[0.9, 0.1], [0.6, 0.4]], [0, 0])
    assert found["accuracy"] == 1.0 and np.isnan(found["roc_auc"]) and np.isnan(found["pr_auc"])
    assert np.isnan(with_intervals([[0.9, 0.1], [0.6, 0.4]], [0, 0])["roc_auc"]["low"])


def test_no_rows_have_no_metrics() -> None:
    assert all(np.isnan(v) for v in metrics_of(np.zeros((0, 3)), []).values())


def test_many_rows_of_many_classes_are_ranked_less_often() -> None:
    """4e7 cells: 4,000 x 3 a thousand times, 20,000 x 3 666 times, never under 200."""
    assert [resamples_of(4000, 3), resamples_of(20000, 3), resamples_of(10**6, 9)] == [1000, 666, 200]


@pytest.mark.parametrize(
    ("probabilities", "labels", "what"),
    [
        ([[0.5, 0.5]], [0, 1], "do not fit labels"),
        ([[0.5, 0.5]], [2], "do not fit 2 columns"),
        ([[2.5, -1.5]], [0], "no probabilities"),
        ([[1.0]], [0], "do not fit"),
    ],
)
def test_what_are_no_probabilities_is_refused(probabilities: list, labels: list, what: str) -> None:
    with pytest.raises(UserError, match=what):
        metrics_of(probabilities, labels)
