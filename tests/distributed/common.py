"""Starting groups of processes, and holding what they wrote against a run of one process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from burnish.core.files import read_lines
from burnish.train.distributed.launch import meeting_at, open_store
from tests.support.recipes import recipe

ROOT = Path(__file__).parents[2]
LIMIT = 900
"""Seconds after which a group hangs."""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def spawn(processes: int, arguments: Sequence[str], **environment: str) -> list[tuple[int, str]]:
    """Start so many processes as a launcher does, and wait; exit code and output of each.

    Args:
        processes: How many.
        arguments: What Python is given.
        environment: Further variables.
    """
    store = open_store()
    given = {**meeting_at(store), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    base = {**os.environ, **given, "PYTHONPATH": path, "LOCAL_WORLD_SIZE": str(processes), **environment}
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        for rank in range(processes)
    ]
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    return [(process.returncode, text) for process, text in zip(running, said, strict=True)]


def carry(folder: Path, processes: int, jobs: Sequence[dict[str, Any]], **environment: str) -> None:
    """Run jobs in one group of processes; a failure shows what its processes said."""
    path = folder / f"jobs-{len(list(folder.glob('jobs-*')))}.json"
    path.write_text(json.dumps(list(jobs)))
    found = spawn(processes, ["-m", "tests.distributed.worker", str(path)], **environment)
    bad = [f"process {rank} ended with {code}:\n{text[-4000:]}" for rank, (code, text) in enumerate(found) if code]
    assert not bad, "\n".join(bad)


def job(folder: Path, name: str, engine: str = "none", **sections: Any) -> dict[str, Any]:
    """The recipe of the tests with a name and an engine; runs of one folder share model and rows."""
    values = recipe(folder, name=name, **sections)
    return values if engine == "none" else {**values, "distributed": engine}


def last_checkpoint(run: Path) -> Path:
    """The newest checkpoint of a run."""
    return max((run / "checkpoints").glob("step-*"))


def weights(run: Path) -> dict[str, torch.Tensor]:
    """Everything that the last checkpoint of a run holds, by file and name."""
    files = sorted(last_checkpoint(run).glob("*.safetensors"))
    return {f"{f.stem.split('-')[0]}:{name}": tensor for f in files for name, tensor in load_file(f).items()}


def numbers(run: Path, kind: str) -> list[dict[str, float]]:
    """Lines of the log of one kind."""
    return [line for line in read_lines(run / "metrics.jsonl") if line["kind"] == kind]


def same(found: Path, wanted: Path, tolerance: float = 1e-5) -> None:
    """Hold losses, gradient norms, counts, scores, weights and moments of two runs against each other."""
    for kind in ("train", "validation", "retention"):
        ours, theirs = numbers(found, kind), numbers(wanted, kind)
        assert [line["step"] for line in ours] == [line["step"] for line in theirs], (found, kind)
        for mine, other in zip(ours, theirs, strict=True):
            for name in mine.keys() & other.keys() - {"seconds", "tokens_per_second", "micro_batches"}:
                where = f"{found.name}: {kind} {name} at step {mine['step']}"
                if isinstance(mine[name], float) and not isinstance(mine[name], bool):
                    assert mine[name] == pytest.approx(other[name], rel=tolerance, abs=tolerance), where
                else:
                    assert mine[name] == other[name], where
    ours_e, theirs_e = (json.loads((run / "evaluation.json").read_text()) for run in (found, wanted))
    assert ours_e["rows"] == theirs_e["rows"]
    for which in ("base", "tuned"):
        loss, wanted_loss = (e[which]["metrics"]["loss"]["value"] for e in (ours_e, theirs_e))
        assert loss == pytest.approx(wanted_loss, rel=tolerance), (found.name, which)
    ours_w, theirs_w = weights(found), weights(wanted)
    assert ours_w.keys() == theirs_w.keys()
    for name, tensor in theirs_w.items():
        assert ours_w[name].shape == tensor.shape, name
        mine, other = ours_w[name].double(), tensor.double()
        size = max(1.0, float(other.abs().max()))
        assert float((mine - other).abs().max()) <= tolerance * size, (found.name, name)
