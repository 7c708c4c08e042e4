"""Small generated sets whose answers are known: sentences about made-up people, tagged, asked about, scored."""

from __future__ import annotations

import random
from typing import Any

PEOPLE = ("Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Henry", "Irene", "James", "Karen", "Louis")
SURNAMES = ("Miller", "Novak", "Rossi", "Tanaka", "Weber", "Young", "Clark", "Silva")
CITIES = ("Oslo", "Paris", "Rome", "Berlin", "Madrid", "Vienna", "Dublin", "New York", "San Diego", "Cape Town")
WORK = ("baker", "teacher", "doctor", "farmer", "pilot", "singer", "lawyer", "painter", "nurse", "driver")
THINGS = ("car", "boat", "piano", "farm", "shop", "horse", "camera", "garden")
TOPICS = {
    "food": ("the soup was hot", "dinner was late", "the bread was fresh"),
    "weather": ("it rained", "the sun was shining", "the wind was cold"),
    "sport": ("the team won", "the match was close", "he ran a marathon"),
}
PRAISE = ("terrible", "rather bad", "acceptable", "good", "excellent")
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


def asked(count: int, seed: int = 0, *, unanswerable: float = 0.0) -> list[dict[str, Any]]:
    """Where somebody lives, what somebody works as or owns; some questions ask for what the context does not say."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        who = f"{draw.choice(PEOPLE)} {draw.choice(SURNAMES)}"
        facts = {
            f"Where does {who} live?": ("lives in {}", draw.choice(CITIES)),
            f"What does {who} work as?": ("works as a {}", draw.choice(WORK)),
            f"What does {who} own?": ("owns a {}", draw.choice(THINGS)),
        }
        question = list(facts)[i % 3]
        answer = facts[question][1]
        missing = draw.random() < unanswerable
        said = [form.format(value) for q, (form, value) in facts.items() if not (missing and q == question)]
        draw.shuffle(said)
        context = f"{who} " + " and ".join(said) + "."
        given = {"text": [answer], "answer_start": [context.rindex(answer)]}
        answers = {"text": [], "answer_start": []} if missing else given
        rows.append({"question": question, "context": context, "answers": answers})
    return rows


def several(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences about food, weather and sport, in any combination."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        has = [name for name in TOPICS if draw.random() < 0.5]
        text = " and ".join([draw.choice(TOPICS[name]) for name in has] or ["nothing happened"])
        rows.append({"text": f"{draw.choice(PEOPLE)} said that {text}", "labels": has})
    return rows


def scored(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Praise from 0 to 4."""
    draw = random.Random(seed)
    places = [i % len(PRAISE) for i in range(count)]
    return [{"text": f"{draw.choice(PEOPLE)} found it {PRAISE[i]}", "score": 10.0 + 5 * i} for i in places]


def preferred(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Of two answers the polite one."""
    draw = random.Random(seed)
    rows = []
    for _ in range(count):
        name = draw.choice(PEOPLE)
        rows.append(
            {
                "prompt": f"Can you help {name}?",
                "chosen": draw.choice(["Of course, gladly", "Yes, with pleasure", "Sure, happy to"]) + f", {name}.",
                "rejected": draw.choice(["Leave me alone", "Go away", "Stop asking"]) + f", {name}.",
            }
        )
    return rows
