"""Text metrics are what `sacrebleu` and `rouge-score` count, and exact match by hand."""

from __future__ import annotations

import pytest
import sacrebleu

from burnish.core.errors import UserError
from burnish.evaluate import text
from burnish.evaluate.text import TEXT_METRICS, require_metrics

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
    monkeypatch.setattr(text, "sacrebleu", None)
    with pytest.raises(UserError, match="sacrebleu"):
        require_metrics(["bleu", "exact_match"])
    require_metrics(["exact_match"])
