"""The recipes of the matrix: engine × recipe × resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.distributed.common import job
from tests.support.head_rows import tagged_rows
from tests.support.recipes import sentiment_rows, write_rows

Values = dict[str, Any]
HYBRID = [
    {"method": "lora", "rank": 4, "targets": "attention", "name": "reader"},
    {"method": "lora", "rank": 2, "targets": "mlp"},
]
STAGES = [
    {"train": "reader", "steps": 2, "learning_rate": 0.01},
    {"train": "lora", "steps": 1, "learning_rate": 0.02, "schedule": "constant", "warmup_steps": 0},
    {"train": "all", "steps": 3, "learning_rate": 0.005},
]
FULL = {"batch_size": 8, "max_steps": 6, "learning_rate": 0.001, "precision": "fp32", "gradient_accumulation_steps": 2}


def _classes(folder: Path) -> Values:
    rows = [{"text": r["prompt"], "label": r["completion"].strip()} for r in sentiment_rows(60)]
    path = write_rows(folder / "classes.jsonl", rows)
    data = {"train": str(path), "split": {"validation": 11, "test": 12}}
    return {
        "model": "bert",
        "task": {"kind": "classification", "dropout": 0.0},
        "train": {"learning_rate": 0.005},
        "data": data,
    }


def _tags(folder: Path) -> Values:
    path = write_rows(folder / "tags.jsonl", tagged_rows(60))
    data = {"train": str(path), "split": {"validation": 11, "test": 12}}
    return {
        "model": "bert",
        "task": {"kind": "token-classification", "dropout": 0.0},
        "train": {"learning_rate": 0.005},
        "data": data,
    }


def _two_tasks(folder: Path) -> Values:
    rows = [(r["prompt"], r["completion"].strip()) for r in sentiment_rows(45)]
    moods = [{"text": text, "label": label} for text, label in rows]
    lengths = [{"text": text, "label": "long" if len(text.split()) > 9 else "short"} for text, _ in rows]
    sources = [
        {"path": str(write_rows(folder / f"{name}.jsonl", found)), "task": name}
        for name, found in (("mood", moods), ("length", lengths))
    ]
    adapters = [{"method": "lora", "rank": 2, "targets": "attention"}]
    adapters += [{"method": "lora", "rank": 2, "targets": "mlp", "name": n, "tasks": [n]} for n in ("mood", "length")]
    data = {"train": sources, "split": {"validation": 12, "test": 24}}
    train = {"learning_rate": 0.005, "batch_size": 4}  # two rows a process: some have rows of one task only
    return {
        "model": "bert",
        "task": {"kind": "classification", "dropout": 0.0},
        "train": train,
        "data": data,
        "adapter": adapters,
    }


def _replay(folder: Path) -> Values:
    path = write_rows(folder / "general.jsonl", sentiment_rows(20, seed=7))
    split = {"validation": 12, "test": 12}
    return {"data": {"split": split, "replay": {"path": str(path), "ratio": 0.25}, "train": str(folder / "rows.jsonl")}}


def _retention(folder: Path) -> Values:
    rows = [
        {"text": "the cat sat on the mat and looked at the dog", "domain": "cats"},
        {"text": "one two three four five six seven eight", "domain": "numbers"},
        {"question": "one two", "choices": [" three", " nine"], "answer": " three", "suite": "counting"},
    ]
    path = write_rows(folder / "known.jsonl", rows)
    return {"evaluate": {"retention": {"sources": str(path), "every_steps": 2}}}


CASES: dict[str, Callable[[Path], Values]] = {
    "lora": lambda folder: {},
    "full": lambda folder: {"adapter": {"method": "full"}, "train": FULL, "batches": {"layout": "padded"}},
    # 37 rows are 16, 16 and 5: one and two rows for each of four processes; packs of 64 tokens differ in number
    "uneven": lambda folder: {
        "train": {"batch_size": 16, "num_epochs": 2.0, "max_steps": None},
        "batches": {"micro_batch_tokens": 64},
    },
    "single": lambda folder: {  # 33 rows of 8: the last update has one, and a process none
        "data": {"split": {"validation": 12, "test": 15}},
        "train": {"num_epochs": 1.0, "max_steps": None},
    },
    "classes": _classes,
    "tags": _tags,
    "stages": lambda folder: {
        "adapter": HYBRID,
        "stages": STAGES,
        "train": {"max_steps": None, "learning_rate": None, "precision": "fp32"},
    },
    "nf4": lambda folder: {"model_quantization": "nf4"},
    "replay": _replay,
    "ema": lambda folder: {"checkpoint": {"ema": {"decay": 0.8}}},
    "retention": _retention,
    "checkpointing": lambda folder: {"train": {"gradient_checkpointing": True}},
    "tasks": _two_tasks,
    "regularized": lambda folder: {
        "regularizers": [{"kind": "l2_sp"}, {"kind": "distill", "on": "both", "max_length": 16}]
    },
    "adalora": lambda folder: {"adapter": {"method": "adalora"}},
}
"""Sections of a recipe, from the folder that model and rows are in."""

COMMON = ("lora", "full", "uneven", "single", "classes", "stages", "nf4")
CARRIED: dict[str, tuple[str, ...]] = {
    "ddp": (*COMMON, "tags", "replay", "ema", "retention", "checkpointing", "tasks", "regularized", "adalora"),
    "fsdp2": (*COMMON, "tags", "replay", "ema", "retention", "checkpointing"),
    "zero1": ("lora", "full", "stages"),
    "zero2": (*COMMON, "replay", "checkpointing"),
    "zero3": ("lora", "full", "uneven", "single", "classes", "stages", "retention", "checkpointing"),
}
"""What each engine is held to."""


def values(root: Path, case: str, name: str, engine: str = "none", **sections: Any) -> Values:
    """The recipe of a case, in a folder of its own that its runs share."""
    folder = root / case
    folder.mkdir(parents=True, exist_ok=True)
    made = {**CASES[case](folder), **sections}
    quantization = made.pop("model_quantization", None)
    found = job(folder, name, engine, **made)
    if quantization:
        found["model"] = {"path": found["model"], "quantization": quantization}
    return found


def run_of(root: Path, case: str, name: str) -> Path:
    """Where a run of a case is written."""
    return root / case / "runs" / name
