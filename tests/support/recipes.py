"""A whole recipe around a tiny model: its folder, its rows, its configuration."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path
from typing import Any

from burnish.core.config import build
from burnish.train.config import RunConfig
from tests.support.tiny import tiny, tiny_tokenizer

LABELS = ("negative", "neutral", "positive")
WORDS = {
    "negative": ("terrible", "this is", "news"),
    "neutral": ("one", "two", "three"),
    "positive": ("wonderful", "what a", "day!"),
}


def save_tiny(folder: Path, name: str = "llama", **settings: Any) -> Path:
    """A tiny model and its tokenizer as a model folder."""
    model = tiny(name, **settings)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@lru_cache(maxsize=8)
def sentiment_rows(count: int, seed: int = 0) -> tuple[dict[str, str], ...]:
    """Rows whose label follows from their words, so that a tiny model can learn them; all texts are different."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        label = LABELS[i % 3]
        words = [draw.choice(WORDS[label]) for _ in range(draw.randint(2, 7))]
        text = " ".join(words) + f" {i}"
        rows.append({"prompt": f"Classify the sentiment: {text}\nSentiment:", "completion": f" {label}"})
    return tuple(rows)


def write_rows(path: Path, rows: Any) -> Path:
    """Rows as a JSONL file."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def recipe(folder: Path, *, rows: int = 60, model: str = "llama", **sections: Any) -> dict[str, Any]:
    """The values of a recipe that trains in a second; ``sections`` replace or extend its own.

    What the model forgets is not measured, which takes longer than the training: tests of that turn it on.

    Args:
        folder: Where model, data and run are put.
        rows: Rows of the data file: 12 are held out for validation, 12 for the test.
        model: Name of the tiny model.
        sections: Sections of the recipe; a dictionary is merged into the default one.
    """
    values: dict[str, Any] = {
        "name": "run",
        "output": str(folder / "runs"),
        "model": str(save_tiny(folder / "model", model)),
        "data": {
            "train": str(write_rows(folder / "rows.jsonl", sentiment_rows(rows))),
            "split": {"validation": 12, "test": 12},
        },
        "adapter": {"method": "lora", "rank": 4},
        "train": {"batch_size": 8, "max_steps": 6, "learning_rate": 0.01, "precision": "fp32"},
        "evaluate": {"every_steps": 3, "samples": 2, "generate": {"max_new_tokens": 4}, "retention": "none"},
    }
    for name, value in sections.items():
        merge = isinstance(value, dict) and isinstance(values.get(name), dict)
        merge = merge and value.get("method") in (None, values[name].get("method"))  # another method has other settings
        values[name] = {**values[name], **value} if merge else value
    return values


def configured(folder: Path, **sections: Any) -> RunConfig:
    """``recipe`` as a configuration."""
    return build(RunConfig, recipe(folder, **sections))
