"""Burnish on the same job, through its own loop, without what surrounds a run: no report, no check of the hand-over."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from measure import Row, Watch, held_out_loss, read_job, read_rows, versions

from burnish.core.config import build
from burnish.core.errors import BurnishError
from burnish.core.events import Event, Stepped
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.job import Cadence, Job
from burnish.train.loop import train
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from burnish.train.state import TrainState

Logits = Callable[[torch.Tensor], torch.Tensor]
Measure = Callable[[Logits, Sequence[Row]], dict[str, float]]


def arguments(description: str | None) -> argparse.Namespace:
    """The folder of the job, and the number format of the products."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--precision", default="auto")
    return parser.parse_args()


def recipe(folder: Path, job: dict[str, Any], precision: str = "auto") -> dict[str, Any]:
    """The settings that every job has in common."""
    lora = {"method": "lora", "rank": job["rank"], "alpha": job["alpha"], "targets": job["targets"]}
    return {
        "name": "bench",
        "output": str(folder),
        "model": {"path": str(folder / "model"), "quantization": "nf4" if job["nf4"] else None},
        "data": {
            # held-out rows of its own keep all training rows; nothing else may be dropped
            "train": {"path": str(folder / "train.jsonl")},
            "validation": {"path": str(folder / "held_out.jsonl")},
            "render": {"max_length": job["max_tokens"]},
            "duplicates": "keep",
            "on_leak": "warn",
        },
        "adapter": job.get("adapter") or (lora if job["method"] == "lora" else {"method": "full"}),
        "train": {
            "num_epochs": job["epochs"],
            "batch_size": job["batch_size"],
            "learning_rate": job["learning_rate"],
            "schedule": "constant",
            "warmup_steps": 0,
            "precision": precision,
        },
        "evaluate": {"samples": 0, "retention": "none"},
    }


class Heard:
    """Passes the updates on to the watch, with the loop's own count of tokens."""

    def __init__(self, watch: Watch) -> None:
        self.watch, self.tokens = watch, 0

    def __call__(self, event: Event) -> None:
        """An event of the loop."""
        if isinstance(event, Stepped):
            self.watch.end()
            self.tokens += int(event.metrics["tokens"])


def recount(watch: Watch, job: Job) -> None:
    """Count what the updates held, which are a function of their number: afterwards, so that it costs no time."""
    for step in range(len(job.updates)):
        for batch in job.updates[step]:
            watch.count(batch["input_ids"], batch["labels"], batch.get("attention_mask"))


def next_tokens(setup: Setup) -> Logits:
    """Logits of the model as it is, from ids [1, T] to [1, T, V]."""
    model: Any = setup.loaded.model
    return lambda ids: model(input_ids=ids).logits[:, -ids.shape[1] :]  # virtual tokens stand before the row


def run(values: dict[str, Any], folder: Path, score: Measure, logits: Callable[[Setup], Logits] = next_tokens) -> None:
    """Train by a recipe and print the measurements; a refusal ends in one line, which the table can show."""
    try:
        measure(values, folder, score, logits)
    except BurnishError as error:
        raise SystemExit("; ".join(part for part in (error.what, error.where, error.fix) if part)) from None


def measure(values: dict[str, Any], folder: Path, score: Measure, logits: Callable[[Setup], Logits]) -> None:
    """Train by a recipe and print the measurements."""
    shared = read_job(folder)
    setup: Setup = set_up(build(RunConfig, values))
    made = make_job(setup, Scorer(setup, []), RunFolder(folder / "bench"))
    job = replace(made, cadence=Cadence(), evaluate=lambda: {"loss": 0.0}, save=lambda state: Path("nowhere"))
    watch = Watch(shared["expected"]["updates"])
    watch.parameters = sum(parameter.numel() for _, parameter in setup.trainable)
    heard = Heard(watch)
    watch.begin()
    train(job, TrainState(), [heard])
    recount(watch, job)
    if heard.tokens != watch.counts["tokens"]:
        raise SystemExit(f"the loop counted {heard.tokens} tokens, its batches hold {watch.counts['tokens']}")
    setup.loaded.model.eval()
    scores = score(logits(setup), read_rows(folder / "held_out.jsonl"))
    found = versions("burnish", "transformers")
    precision = setup.precision.to_json()["compute"]
    examples = shared["expected"]["rows"] * shared["epochs"]
    watch.answer(scores, found, examples=examples, precision=precision, layout=setup.layout)


def main() -> None:
    """The job of completions."""
    given = arguments(__doc__)
    run(recipe(given.folder, read_job(given.folder), given.precision), given.folder, held_out_loss)


if __name__ == "__main__":
    main()
