"""Small generated sets whose answers are known: sentences about made-up people, for tagging and for questions."""

from __future__ import annotations

import random
from typing import Any

PEOPLE = ("Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Henry", "Irene", "James", "Karen", "Louis")
SURNAMES = ("Miller", "Novak", "Rossi", "Tanaka", "Weber", "Young", "Clark", "Silva")
CITIES = ("Oslo", "Paris", "Rome", "Berlin", "Madrid", "Vienna", "Dublin", "New York", "San Diego", "Cape Town")
WORK = ("baker", "teacher", "doctor", "farmer", "pilot", "singer", "lawyer", "painter", "nurse", "driver")
SENTENCES = (
    "yesterday {a} met {b} in {c} .",
    "{a} moved from {c} to {d} last year .",
    "the train to {c} was late , said {a} .",
    "in {c} , {a} and {b} opened a small shop .",
    "nobody in the office knew the answer .",
)


def tagged(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences with people (one or two words) and cities, as words with BIO tags."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        person = lambda: draw.choice(PEOPLE) + draw.choice(["", f" {draw.choice(SURNAMES)}"])  # noqa: E731
        filled = {"a": person(), "b": person(), "c": draw.choice(CITIES), "d": draw.choice(CITIES)}
        words: list[str] = []
        tags: list[str] = []
        for part in SENTENCES[i % len(SENTENCES)].split():
            name = filled.get(part.strip("{}"), "") if part.startswith("{") else ""
            new = name.split() or [part]
            kind = "PER" if part in ("{a}", "{b}") else "LOC"
            words += new
            tags += [f"{'I' if k else 'B'}-{kind}" for k in range(len(new))] if name else ["O"]
        rows.append({"tokens": words, "ner_tags": tags})
    return rows


def asked(count: int, seed: int = 0, *, people: int = 3, unanswerable: float = 0.0) -> list[dict[str, Any]]:
    """Where somebody lives or what somebody works as, among several people; some questions are about nobody there."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        who = draw.sample(PEOPLE, people + 1)
        cities, work = draw.sample(CITIES, people), draw.sample(WORK, people)
        facts = zip(who, cities, work, strict=False)
        context = " ".join(f"{p} lives in {c} and works as a {w}." for p, c, w in facts)
        about = draw.randrange(people)
        question, answer = (
            (f"Where does {who[about]} live?", cities[about])
            if i % 2
            else (f"What does {who[about]} work as?", work[about])
        )
        start = context.index(answer, context.index(who[about]))
        answers = {"text": [answer], "answer_start": [start]}
        if draw.random() < unanswerable:
            question = question.replace(who[about], who[people])
            answers = {"text": [], "answer_start": []}
        rows.append({"question": question, "context": context, "answers": answers})
    return rows
