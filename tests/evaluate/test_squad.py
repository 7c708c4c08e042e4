"""Exact match and F1 of answers: numbers by hand, and a second derivation from the published definition."""

from __future__ import annotations

import random
import string

import numpy as np
import pytest

from burnish.evaluate.squad import Reference, best_of, best_threshold, exact_match, normalised, token_f1
from burnish.evaluate.text import TEXT_METRICS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat!", "cat"),
        ("  an  apple\ta day ", "apple day"),
        ("the-end", "theend"),
        ("A.B.C.", "abc"),
        ("theatre", "theatre"),
        ("«the» cat", "« » cat"),
        ("", ""),
    ],
)
def test_normalised_by_hand(text: str, expected: str) -> None:
    """Punctuation goes before the articles; only ASCII's, and an article between other marks goes as well."""
    assert normalised(text) == expected


@pytest.mark.parametrize(
    ("answer", "target", "exact", "f1"),
    [
        ("the cat", "Cat.", 1.0, 1.0),
        ("black cat", "the cat", 0.0, 2 / 3),  # P = 1/2, R = 1
        ("a b b c", "b b d", 0.0, 2 * 2 / (3 + 3)),  # `a` is an article; two b in common, each counted
        ("cat", "dog", 0.0, 0.0),
        ("", "dog", 0.0, 0.0),
        ("the", "", 1.0, 1.0),
    ],
)
def test_scores_by_hand(answer: str, target: str, exact: float, f1: float) -> None:
    assert exact_match(answer, target) == exact
    assert token_f1(answer, target) == pytest.approx(f1, rel=1e-15)


def test_the_nearest_of_several_counts() -> None:
    """EM and F1 each take their own nearest target; none at all means that no answer is right."""
    assert best_of("black cat", ["cat", "black dog", "black cat sat"]) == (0.0, pytest.approx(0.8))  # 2 * 2 / (2 + 3)
    assert best_of("", []) == (1.0, 1.0) and best_of("cat", []) == (0.0, 0.0)
    assert best_of("", ["the"]) == (1.0, 1.0), "a target that normalises to nothing is no answer"


def rederived(answer: str, target: str) -> tuple[float, float]:
    """The definition once more: characters dropped one by one, words matched off one by one, P and R written out."""

    def words(text: str) -> list[str]:
        kept = "".join(c for c in text.lower() if c not in string.punctuation)
        out, word = [], ""
        for c in kept + " ":
            if c.isalnum() or c == "_":
                word += c
            else:
                out.append("" if word in ("a", "an", "the") else word)
                out.append(c)
                word = ""
        return "".join(out).split()

    said, true = words(answer), words(target)
    left, common = list(true), 0
    for word in said:
        if word in left:
            left.remove(word)
            common += 1
    if not said or not true:
        return float(said == true), float(said == true)
    precision, recall = common / len(said), common / len(true)
    return float(said == true), 2 * precision * recall / (precision + recall) if common else 0.0


def test_fuzzed_against_a_second_derivation() -> None:
    draw = random.Random(3)
    pool = ["the", "A", "an", "cat", "Cat's", "dog.", "(the)", "x-y", "7", "é", "«", "B,b", "_a"]
    for _ in range(3000):
        answer, target = (" ".join(draw.choices(pool, k=draw.randint(0, 5))) for _ in range(2))
        assert (exact_match(answer, target), token_f1(answer, target)) == pytest.approx(rederived(answer, target))


def test_threshold_by_hand_and_by_trying_all() -> None:
    """Gaps -2, -1, 1, 3 with an answer at -2 (score 1), -1 (0.5) and 3 (1), none at 1: answering up to -1 gives
    1 + 0.5 + 1 of 4, up to 3 the same with the third lost and the fourth won; the lower is taken."""
    gaps, scores, given = (np.asarray(x, float) for x in ([-2, -1, 1, 3], [1, 0.5, 0, 1], [1, 1, 0, 1]))
    assert best_threshold(gaps, scores, given) == -1
    draw = np.random.default_rng(0)
    for _ in range(200):
        n = int(draw.integers(1, 12))
        gaps, given = draw.integers(-3, 4, n).astype(float), (draw.random(n) < 0.6).astype(float)
        scores = draw.random(n) * given

        def total(
            limit: float, gaps: np.ndarray = gaps, scores: np.ndarray = scores, given: np.ndarray = given
        ) -> float:
            return float(np.where(gaps <= limit, scores, 1 - given).sum())

        tried = [total(limit) for limit in (-np.inf, *gaps)]
        assert total(best_threshold(gaps, scores, given)) == pytest.approx(max(tried))


def test_as_a_text_metric() -> None:
    """Two rows: one is right by its second reference, one half: EM 1/2, F1 (1 + 2/3) / 2."""
    targets = [Reference("two", ("two", "2")), Reference("the cat")]
    found = TEXT_METRICS["squad"](["2", "black cat"], targets, 0)
    assert found["squad_exact_match"]["value"] == 0.5
    assert found["token_f1"]["value"] == pytest.approx(5 / 6)
