"""Text metrics are what `sacrebleu` and `rouge-score` count, and exact match by hand."""

from __future__ import annotations

import random

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from burnish.core.errors import UserError
from burnish.evaluate import text
from burnish.evaluate.text import TEXT_METRICS, paired_text, require_metrics

ANSWERS = ["the cat sat on the mat", "a dog", "one two three four five", " yes "]
TARGETS = ["the cat sat on a mat", "a dog", "one two three four six", "yes"]


def test_exact_match_by_hand() -> None:
    """`a dog` and `yes`, of four: 0.5."""
    assert TEXT_METRICS["exact_match"](ANSWERS, TARGETS, 0)["exact_match"]["value"] == 0.5


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    for name, theirs in (("bleu", sacrebleu.corpus_bleu), ("chrf", sacrebleu.corpus_chrf)):
        score = TEXT_METRICS[name](ANSWERS, TARGETS, 0)[name]
        assert score["value"] == pytest.approx(theirs(ANSWERS, [TARGETS]).score)
        assert score["low"] <= score["high"]


def test_rouge_by_hand() -> None:
    """ROUGE-1 of row 1: 5 of 6 words both ways, F 5/6; row 2: 1; row 3: 4/5; row 4: 1. Mean 0.9083."""
    score = TEXT_METRICS["rouge"](ANSWERS, TARGETS, 0)["rouge1"]["value"]
    assert score == pytest.approx((5 / 6 + 1 + 4 / 5 + 1) / 4)


def test_a_missing_library_is_named_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="sacrebleu"):
        require_metrics(["bleu", "exact_match"])
    require_metrics(["exact_match"])


def fuzzed(seed: int) -> tuple[list[str], list[str]]:
    """Texts of few words, some empty, some with punctuation and other scripts."""
    draw = random.Random(seed)
    words = ["the", "cat", "sat", "on", "mat", "dog,", "ran!", "über", "日本", "a", ""]
    rows = [" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(2 * draw.randint(2, 20))]
    return rows[::2], rows[1::2]


@pytest.mark.parametrize("seed", range(15))
def test_fuzzed_texts_score_as_in_the_libraries(seed: int) -> None:
    """BLEU, chrF and ROUGE-1, -2 and -L, to the last digit."""
    answers, targets = fuzzed(seed)
    assert TEXT_METRICS["bleu"](answers, targets, 0)["bleu"]["value"] == sacrebleu.corpus_bleu(answers, [targets]).score
    assert TEXT_METRICS["chrf"](answers, targets, 0)["chrf"]["value"] == sacrebleu.corpus_chrf(answers, [targets]).score
    scorer = rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    rows = [scorer.score(t, a) for t, a in zip(targets, answers, strict=True)]
    found = TEXT_METRICS["rouge"](answers, targets, 0)
    for kind, score in found.items():
        assert score["value"] == float(np.mean([row[kind].fmeasure for row in rows]))


def test_distinct_by_hand() -> None:
    """`a b a` and `a b`: words a b a a b, 2 of 5; pairs ab ba ab, 2 of 3."""
    found = TEXT_METRICS["distinct"](["a b a", "a b"], ["", ""], 0)
    assert found["distinct_1"]["value"] == 2 / 5 and found["distinct_2"]["value"] == 2 / 3
    assert np.isnan(TEXT_METRICS["distinct"](["", ""], ["", ""], 0)["distinct_1"]["value"])


def test_paired_differences_of_texts() -> None:
    """The second answers every row right, the first none: 1 and 0 exact matches, p = 2 / 2^12; BLEU far apart."""
    targets = [f"one two three four {i}" for i in range(12)]
    bad, good = ["five"] * 12, targets
    match = paired_text("exact_match", bad, good, targets, 0)["exact_match"]
    assert match["difference"] == 1.0 and match["p_value"] == pytest.approx(2 / 2**12)
    for name in ("bleu", "rouge"):
        for row in paired_text(name, bad, good, targets, 0).values():
            assert row["low"] > 0 and row["difference"] == row["second"] - row["first"]
    assert paired_text("chrf", good, good, targets, 0)["chrf"]["difference"] == 0
