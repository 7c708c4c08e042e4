"""A harness that kills a small real run at random moments and resumes it until it is done.

``python -m tests.trust.kill --kills 100`` is the soak; the test calls ``soak`` with few kills.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from burnish.core.config import build
from burnish.core.files import read_lines
from burnish.train import run as runs
from burnish.train.config import RunConfig
from burnish.train.folder import is_run
from burnish.train.run import resume_run, start_run
from burnish.train.verify import verify_run
from tests.support.recipes import recipe


def settings(folder: Path) -> dict[str, Any]:
    """Packing, accumulation, dropout, shuffling, several epochs and early stopping at once."""
    return recipe(
        folder,
        rows=80,
        adapter={"method": "lora", "rank": 4, "dropout": 0.2},
        train={"batch_size": 8, "num_epochs": 3, "max_steps": None, "learning_rate": 0.01, "precision": "fp32"},
        batches={"layout": "packed", "micro_batch_tokens": 60},
        evaluate={"every_steps": 4, "samples": 2},
        early_stopping={"patience": 3},
        checkpoint={"every_steps": 2},
    )


def child(work: Callable[[], None]) -> int:
    """Run ``work`` in a forked process, so that PyTorch need not be imported again; returns its process id."""
    process = os.fork()
    if process:
        return process
    status = 0
    try:
        torch.set_num_threads(1)
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # the process ends below
        work()
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
        status = 1
    os._exit(status)


def go_on(config: RunConfig) -> None:
    """Start the run, or resume it once it is on disk; read back in this process to save time."""
    runs.read_back = verify_run  # type: ignore[assignment]
    if is_run(config.folder):
        if not (config.folder / "evaluation.json").is_file():
            resume_run(config.folder)
    else:
        start_run(config, force=True)


def result(folder: Path) -> dict[str, Any]:
    """Everything that must be equal: rows, losses and norms of every update, evaluations, weights, answers."""
    lines = [{k: v for k, v in row.items() if "second" not in k} for row in read_lines(folder / "metrics.jsonl")]
    return {
        "log": [line for line in lines if line["kind"] in ("train", "validation")],
        "final": (folder / "final" / "adapter_model.safetensors").read_bytes(),
        "last": {p.name: p.read_bytes() for p in sorted((folder / "checkpoints").iterdir())[-1].glob("*.safetensors")},
        "evaluation": json.loads((folder / "evaluation.json").read_text()),
        "samples": (folder / "samples.jsonl").read_text(),
    }


def soak(folder: Path, kills: int, seed: int = 0) -> dict[str, int]:
    """Kill runs ``kills`` times in all; every one that is finished in the end must equal the one never killed.

    Returns:
        How many kills and finished runs there were, and how many kills left no run on disk yet.
    """
    (folder / "whole").mkdir()
    config = build(RunConfig, settings(folder / "whole"))
    began = time.monotonic()
    assert os.waitpid(child(lambda: go_on(config)), 0)[1] == 0
    seconds = time.monotonic() - began
    expected = result(config.folder)
    draw = random.Random(seed)
    done = {"kills": 0, "finished": 0, "before the first file": 0}
    while done["kills"] < kills or not done["finished"]:
        place = folder / f"killed-{done['finished']}"
        place.mkdir()
        killed = build(RunConfig, settings(place))
        while not (killed.folder / "evaluation.json").is_file():
            process = child(lambda config=killed: go_on(config))  # type: ignore[misc]
            if done["kills"] < kills:
                time.sleep(draw.uniform(0, seconds))
                os.kill(process, signal.SIGKILL)
                done["kills"] += 1
                done["before the first file"] += not is_run(killed.folder)
            status = os.waitpid(process, 0)[1]
            assert os.WIFSIGNALED(status) or status == 0, "the run failed by itself"
        found = result(killed.folder)
        for key, value in expected.items():
            assert found[key] == value, f"{key} differs after kills ({killed.folder})"
        assert all(check.passed for check in verify_run(killed.folder))
        done["finished"] += 1
    return done


def main() -> None:
    """The soak from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(soak(Path(folder), arguments.kills, arguments.seed)))


if __name__ == "__main__":
    main()
