"""Spans from the logits of their ends: against all pairs tried one by one, over windows, with and without an answer."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.data.example import Example
from burnish.evaluate.answers import Found, Span, answer_of, best_spans, choose_threshold, merge


@pytest.mark.parametrize(("count", "most", "best"), [(1, 5, 3), (7, 3, 4), (20, 30, 6), (20, 1, 5)])
def test_best_spans_against_all_pairs(count: int, most: int, best: int) -> None:
    draw = np.random.default_rng(count)
    starts, ends = draw.normal(size=count), draw.normal(size=count)
    tried = [(starts[i] + ends[j], i, j) for i in range(count) for j in range(i, min(i + most, count))]
    expected = sorted(tried, reverse=True)[:best]
    assert [(s.score, s.first, s.last) for s in best_spans(starts, ends, most, best)] == expected


def test_windows_together() -> None:
    """A span that two windows see counts with its higher score; no answer counts with its lowest, -1."""
    parts = [Found([Span(3.0, 4, 5), Span(1.0, 0, 0)], 2.0), Found([Span(5.0, 4, 5), Span(2.0, 9, 9)], -1.0)]
    merged = merge(parts, 2)
    assert merged == Found([Span(5.0, 4, 5), Span(2.0, 9, 9)], -1.0) and merged.gap == -6.0


def test_the_answer_is_cut_from_the_context() -> None:
    """Tokens that count the space before a word to it: the place is that of the word, without the space."""
    example = Example("r", prompt="who", pair="it was Ada")
    tokens = [(1, 0, 2), (2, 2, 6), (3, 6, 10)]
    found = Found([Span(2.0, 2, 2), Span(1.0, 1, 2)], 0.0)
    answer = answer_of(example, tokens, found, {})
    assert (answer["text"], answer["start"], answer["end"]) == ("Ada", 7, 10)
    assert [o["text"] for o in answer["best"]] == ["Ada", "was Ada"]
    assert answer["probability"] == pytest.approx(1 / (1 + np.exp(-1.0)))


@pytest.mark.parametrize(("none", "threshold", "said"), [(1.0, None, "Ada"), (2.5, None, ""), (2.5, 1.0, "Ada")])
def test_no_answer_above_the_threshold(none: float, threshold: float | None, said: str) -> None:
    """It is said where it scores higher than the best answer, 2, by more than the threshold."""
    example, tokens = Example("r", prompt="who", pair="Ada"), [(1, 0, 3)]
    settings = {"no_answer": True, "threshold": threshold}
    answer = answer_of(example, tokens, Found([Span(2.0, 0, 0)], none), settings)
    assert answer["predicted"] == said and {o["text"] for o in answer["best"]} == {"Ada", ""}
    assert sum(o["probability"] for o in answer["best"]) == pytest.approx(1.0)


def test_a_threshold_needs_both_kinds_of_questions() -> None:
    columns = {"given": np.ones(3), "gap": np.zeros(3), "plain_f1": np.ones(3)}
    assert choose_threshold(columns, {"no_answer": False}, ()) == ({}, [])
    chosen, findings = choose_threshold(columns, {"no_answer": True}, ())
    assert not chosen and findings[0].severity == "warning"
    columns |= {"given": np.asarray([1.0, 1.0, 0.0]), "gap": np.asarray([-1.0, 0.5, 2.0])}
    assert choose_threshold(columns, {"no_answer": True}, ())[0] == {"threshold": 0.5}
