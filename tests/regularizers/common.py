"""Runs with regularizers around tiny models."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from burnish.train.folder import RunFolder
from burnish.train.job import Job
from burnish.train.loop import backward, count_units, penalize
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from tests.support.recipes import configured, sentiment_rows, write_rows

MODELS = ("gpt2", "llama", "bert", "t5")
KINDS: dict[str, dict[str, Any]] = {
    "l2_sp": {"kind": "l2_sp", "weight": 0.3},
    "distill": {"kind": "distill", "on": "both", "weight": 0.5, "rows": 3, "max_length": 24},
    "ewc": {"kind": "ewc", "samples": 4, "max_length": 16},
    "o_lora": {"kind": "o_lora", "weight": 0.1},
}
"""Settings for every registered regularizer; a new one needs a line here."""


def made(model: str, adapter: Any, regularizers: Any, *, rows: int = 8, **sections: Any) -> Setup:
    """A run that is set up; `bert` learns three classes, the others words."""
    classifies = model == "bert" or "task" in sections
    with TemporaryDirectory() as name:
        folder = Path(name)
        train = {"batch_size": rows, "max_steps": 4, **sections.pop("train", {})}
        sections.setdefault("task", {"kind": "classification", "dropout": 0.0} if classifies else "text")
        config = configured(
            folder, model=model, adapter=adapter, train=train, regularizers=regularizers, rows=40, **sections
        )
        given = sentiment_rows(40)
        texts = [{**row, "completion": " a" * (1 + i % 9)} for i, row in enumerate(given)]
        labelled = [{"text": r["prompt"], "label": r["completion"].strip()} for r in given]
        write_rows(folder / "rows.jsonl", labelled if classifies else texts)
        return set_up(config)


def job_of(setup: Setup) -> Job:
    job = make_job(setup, Scorer(setup, []), RunFolder(Path("unused")))
    setup.loaded.model.train()
    return job


@torch.no_grad()
def shake(setup: Setup, size: float = 0.05) -> None:
    """Away from the start."""
    generator = torch.Generator().manual_seed(1)
    for _, parameter in setup.trainable:
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=size)


def first_update(job: Job) -> tuple[float, dict[str, float], dict[str, torch.Tensor]]:
    """Loss, the share of each term, and the gradient of the first update, in the loop's own arithmetic."""
    batches = [*job.updates[0], *job.further(0)]
    counts, parts = count_units(job.terms, batches), dict[str, float]()
    loss = sum(backward(job, batch, counts, parts) for batch in batches) + penalize(job, batches[0], parts)
    return loss, parts, {n: p.grad.clone() for n, p in job.trainable if p.grad is not None}
