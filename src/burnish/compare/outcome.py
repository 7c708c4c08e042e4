"""What a finished run measured, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from burnish.compare.statistics import Scored
from burnish.evaluate.run import Evaluation, Split
from burnish.train.folder import RunFolder
from burnish.train.score import base_counts

BASE, TUNED = "base", "tuned"


@dataclass(frozen=True)
class Outcome:
    """One run.

    Attributes:
        seed: Its seed.
        scored: The tuned model on the held-out rows.
        base: The untouched model on the same rows; None where its head was random.
        facts: Numbers by name: ``parameters``, ``trainable``, ``peak_bytes``, ``tokens_per_second``,
            ``training_seconds``, ``updates``, ``checkpoint_bytes``, ``learning_rate``.
        latency: What ``latencies`` returned.
        split: Which rows they are.
        majority: What the most frequent class reaches, for a classification.
    """

    seed: int
    scored: Scored
    base: Scored | None
    facts: dict[str, float]
    latency: dict[str, Any] = field(default_factory=dict)
    split: str = "test"
    majority: dict[str, Any] = field(default_factory=dict)


def finished(path: Path) -> bool:
    """Whether a run came to its end and was timed."""
    return (path / "evaluation.json").is_file() and (path / "latency.json").is_file()


def read_outcome(path: Path, seed: int) -> Outcome:
    """The measurements of a finished run."""
    folder = RunFolder(path)
    evaluation, model = folder.read("evaluation.json"), folder.read("model.json")
    rows = folder.read_rows("predictions.jsonl")
    counts = base_counts(folder)
    labels = evaluation[TUNED].get("confusion", {}).get("labels", [])
    end = [row for row in folder.read_rows("metrics.jsonl") if row.get("kind") == "finished"][-1]
    facts = {
        "parameters": model["parameters"],
        "trainable": model["trainable"],
        "learning_rate": model["learning_rate"]["value"],
        "peak_bytes": end["peak_memory_bytes"],
        "tokens_per_second": end["tokens"] / end["training_seconds"],
        "training_seconds": end["training_seconds"],
        "updates": end["step"],
        "checkpoint_bytes": sum(p.stat().st_size for p in folder.final.glob("*.safetensors")),
    }
    untouched = None if evaluation.get("new_head") else scored(rows, counts, labels, BASE)
    return Outcome(
        seed,
        scored(rows, counts, labels, TUNED),
        untouched,
        facts,
        folder.read("latency.json") or {},
        evaluation["split"],
        evaluation.get("majority") or {},
    )


def scored(rows: Sequence[Mapping[str, Any]], counts: Any, labels: Sequence[str], which: str) -> Scored:
    """One model's part of ``predictions.jsonl``."""
    places = {label: i for i, label in enumerate(labels)}
    return Scored(
        ids=tuple(str(row["id"]) for row in rows),
        losses=np.array([row[which]["loss"] for row in rows], dtype=np.float64),
        counts=counts,
        true=np.array([places[row["target"].strip()] for row in rows] if places else [], dtype=np.int64),
        predicted=np.array([places[row[which]["predicted"]] for row in rows] if places else [], dtype=np.int64),
        classes=len(labels),
    )


def scored_of(split: Split, result: Evaluation) -> Scored:
    """A model's scores on a split as they were made; classes are there where each row has one answer."""
    losses, counts = result.losses, np.maximum(result.losses.counts, 1.0)
    classes = len(split.choices) if result.result is None and len(result.scores) else 0
    empty = np.empty(0, dtype=np.int64)
    return Scored(
        ids=tuple(map(str, range(len(counts)))),
        losses=losses.totals / counts,
        counts=losses.counts,
        true=split.true if classes else empty,
        predicted=result.scores.argmax(1) if classes else empty,
        classes=classes,
    )
