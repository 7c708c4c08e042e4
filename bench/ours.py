"""Burnish on the same job, through its own loop."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import transformers
from measure import BEGAN, answer, count_tokens, held_out_loss, read

import burnish
from burnish.core.config import build
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.loop import Cadence, train
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import set_up
from burnish.train.state import TrainState


def main() -> None:
    """Train one epoch and print the measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    values = {
        "name": "bench",
        "output": str(arguments.folder),
        "model": {"path": str(arguments.folder / "model")},
        "data": {
            "train": {"path": str(arguments.folder / "train.jsonl")},
            "render": {"max_length": 512},
            "duplicates": "keep",
        },
        "adapter": {"method": "lora", "rank": 16, "alpha": 32},
        "train": {"batch_size": 8, "learning_rate": 2e-4, "schedule": "constant", "warmup_steps": 0},
        "evaluate": {"samples": 0},
    }
    setup = set_up(build(RunConfig, values))
    job = make_job(setup, Scorer(setup, []), RunFolder(arguments.folder / "bench"))
    job = replace(job, cadence=Cadence(), evaluate=lambda: {"loss": 0.0}, save=lambda state: Path("nowhere"))
    first = time.time()
    ends: list[float] = []
    train(job, TrainState(), [lambda event: ends.append(time.time()) if type(event).__name__ == "Stepped" else None])
    rows, held = read(arguments.folder / "train.jsonl"), read(arguments.folder / "held_out.jsonl")
    tokenizer = setup.loaded.tokenizer
    answer(
        tokens_per_second=count_tokens(tokenizer, rows) / (ends[-1] - first),
        startup_seconds=first - BEGAN,
        updates=len(ends),
        trained_parameters=setup.attached.parameters_count,
        held_out_loss=held_out_loss(setup.loaded.model, tokenizer, held),
        versions={"burnish": burnish.__version__, "transformers": transformers.__version__},
    )


if __name__ == "__main__":
    main()
