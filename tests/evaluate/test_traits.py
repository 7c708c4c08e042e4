"""What is said of texts in words."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.evaluate.representations import clusters
from burnish.evaluate.traits import FORMS, Vocabulary, language, negates, quartiles


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("the cat is on the mat and it was good", "English"),
        ("das ist nicht gut, aber ich bin auch da", "German"),
        ("je ne sais pas pour vous mais le vin est bon", "French"),
        ("no es lo que se dice en los libros", "Spanish"),
        ("non mi piace che la pizza è fredda", "Italian"),
        ("você não é um dos que se vê por aí", "Portuguese"),
        ("ik ben niet de man die het zegt", "Dutch"),
        ("Это очень хорошо", "Cyrillic script"),
        ("これはとても良いです", "Japanese"),
        ("这很好", "Chinese characters"),
        ("lol omg", "unclear"),
        ("!!! 123", "no letters"),
    ],
)
def test_language(text: str, name: str) -> None:
    assert language(text) == name


@pytest.mark.parametrize(
    ("text", "yes"),
    [
        ("I don't like it", True), ("I don’t like it", True), ("This is not good", True), ("Never again!", True),
        ("das ist kein Spaß", True), ("I like it", False), ("a knotty notion", False), ("dont go", True),
    ],
)  # fmt: skip
def test_negation(text: str, yes: bool) -> None:
    assert negates(text) is yes


def test_rare_words_are_those_of_few_training_rows() -> None:
    """`good` is in three rows, `bad` in two, `bad` twice in one of them; `new` in none."""
    known = Vocabulary(["good day", "good night", "good bad bad", "bad"])
    assert known.rare("Good bad new new") == ["bad", "new"]
    assert known.rareness("good") == "no rare word" and known.rareness("good new") == "a third or more rare"
    assert known.rareness("...") == "no words"


def test_lengths_by_quarters() -> None:
    """1 to 8: two in each quarter; equal lengths are one group."""
    assert quartiles([8, 1, 2, 3, 4, 5, 6, 7])[:3] == ["7–8 tokens", "1–2 tokens", "1–2 tokens"]
    assert set(quartiles([5, 5, 5, 5])) == {"5–5 tokens"} and quartiles([]) == []


def test_forms_say_both_ways() -> None:
    told = {name: form("WHY ME? http://x.y @you #tag 7 :)") for name, form in FORMS.items()}
    plain = {name: form("so it goes") for name, form in FORMS.items()}
    assert told["link"] == "has a link" and plain["link"] == "has no link"
    assert told["mention"].startswith("mentions somebody") and told["hashtag"] == "has a hashtag"
    assert told["emoticon"] == "has an emoji or emoticon" and plain["emoticon"].startswith("has no")
    assert all(told[name] != plain[name] for name in ("question", "digits", "link", "mention", "hashtag", "emoticon"))


def test_clusters_are_those_of_the_vectors_and_named_by_their_words() -> None:
    """Two directions, 45 rows each, with words of their own: two clusters, each named by its words."""
    draw = np.random.default_rng(0)
    vectors = np.repeat(np.eye(2, 5), 45, 0) + draw.normal(0, 0.05, (90, 5))
    texts = ["rainy weather today"] * 45 + ["football match result"] * 45
    found = clusters(vectors.astype(np.float32), texts, seed=0)
    assert len(set(found)) == 2 and len(set(found[:45])) == 1
    assert "weather" in found[0] and "football" in found[-1]
    assert set(clusters(vectors[:30].astype(np.float32), texts[:30], seed=0)) == {"all rows"}
