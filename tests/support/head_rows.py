"""Rows for every task with a head, whose targets follow from their words, so that a tiny model can learn them."""

from __future__ import annotations

import random
from typing import Any

NAMES = {"PER": ("cat", "dog"), "LOC": ("mat", "user")}
FILLERS = ("the", "looked", "at", "and", "sat", "on", "this", "is")


def tagged_rows(count: int, seed: int = 0, longest: int = 9) -> list[dict[str, Any]]:
    """Words with BIO tags: a word of ``NAMES`` is an entity, and with the next one of its kind the same entity."""
    draw = random.Random(seed)
    kinds = {word: kind for kind, words in NAMES.items() for word in words}
    rows = []
    for i in range(count):
        words = [draw.choice([*FILLERS, *kinds]) for _ in range(draw.randint(3, longest))] + [str(i)]
        tags = []
        for place, word in enumerate(words):
            inside = place and kinds.get(words[place - 1]) == kinds.get(word)
            tags.append(f"{'I' if inside else 'B'}-{kinds[word]}" if word in kinds else "O")
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def asked_rows(count: int, seed: int = 0, *, unanswerable: bool = False) -> list[dict[str, Any]]:
    """Questions for the word behind a name in the context; of every third the name is missing, if asked for."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        names = draw.sample(["cat", "dog", "mat"], 2)
        places = draw.sample(["one", "two", "three", "four", "five"], 2)
        context = " and ".join(f"the {n} sat on {p}" for n, p in zip(names, places, strict=True)) + f" {i}"
        name, answer = names[i % 2], places[i % 2]
        start = context.index(answer)
        answers = {"text": [answer], "answer_start": [start]}
        if unanswerable and i % 3 == 2:
            name, answers = next(n for n in ("cat", "dog", "mat") if n not in names), {"text": [], "answer_start": []}
        rows.append({"question": f"where sat the {name}", "context": context, "answers": answers})
    return rows


def several_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with the classes whose word they hold; some have none."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        has = [label for label in ("cat", "dog", "mat") if draw.random() < 0.5]
        words = [*has, *draw.choices(FILLERS, k=3), str(i)]
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "labels": has})
    return rows


def scored_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with 100 and ten for each `cat`."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        cats = draw.randint(0, 4)
        words = ["cat"] * cats + draw.choices(FILLERS, k=5 - cats)
        draw.shuffle(words)
        rows.append({"text": " ".join([*words, str(i)]), "score": 100.0 + 10 * cats})
    return rows


def preferred_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of texts of which the one with the `cat` is preferred."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        words = draw.choices(FILLERS, k=4)
        pair = [" ".join([*words[:2], name, *words[2:], str(i)]) for name in ("cat", "dog")]
        rows.append({"prompt": "describe", "chosen": pair[0], "rejected": pair[1]})
    return rows


ROWS: dict[str, Any] = {
    "token-classification": tagged_rows,
    "extractive-qa": asked_rows,
    "multi-label": several_rows,
    "regression": scored_rows,
    "ranking": preferred_rows,
}
