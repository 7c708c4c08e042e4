"""The checks of every run: dead tensors, memory, and what is kept of an update that is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from burnish.adapters.lora import LoraAdapter
from burnish.cli.main import call
from burnish.core.errors import TrainingStopped, UserError
from burnish.core.files import read_lines
from burnish.ops.fingerprint import PIECE, fingerprint
from burnish.train import rehearsal
from burnish.train import setup as preparation
from burnish.train.folder import RunFolder
from burnish.train.liveness import Liveness
from burnish.train.run import make_job, resume_run, start_run
from burnish.train.score import Scorer
from burnish.train.setup import set_up
from burnish.train.stopped import replay
from tests.support.recipes import configured


def three_updates(parameters: list[tuple[str, nn.Parameter]], frozen: set[str], silent: set[str]) -> None:
    """Three updates of SGD; ``frozen`` tensors are put back, ``silent`` ones get no gradient."""
    watch = Liveness(parameters, updates=10)
    for _ in range(3):
        for name, p in parameters:
            p.grad = None if name in silent else torch.ones_like(p)
        watch.saw_gradients()
        with torch.no_grad():
            for name, p in parameters:
                if name not in frozen | silent:
                    p -= 0.1
        watch.updated(0.1)


@pytest.mark.parametrize(
    ("frozen", "silent", "what"), [({"b"}, set(), "did not move"), (set(), {"b"}, "had no gradient")]
)
def test_a_dead_tensor_is_named(frozen: set[str], silent: set[str], what: str) -> None:
    named = [(n, nn.Parameter(torch.ones(3, 2))) for n in "abc"]
    three_updates(named, set(), set())
    with pytest.raises(TrainingStopped, match=f"1 of 3 trained tensors {what}") as caught:
        three_updates(named, frozen, silent)
    assert caught.value.where == "b"


def test_updates_without_a_learning_rate_are_not_counted() -> None:
    """During a warm-up that begins at zero nothing moves, and nothing is wrong."""
    watch = Liveness([("a", nn.Parameter(torch.ones(2)))], updates=10)
    for _ in range(5):
        watch.updated(0.0)
    assert watch.left == 3


def test_fingerprint_sees_changes_that_cancel() -> None:
    """+1 and -1 leave the sum as it was: cos(0) - cos(1) = 0.46 tells them apart."""
    before, after = torch.zeros(5), torch.tensor([1.0, -1.0, 0.0, 0.0, 0.0])
    assert fingerprint(before)[0] == fingerprint(after)[0]
    assert fingerprint(after)[1] - fingerprint(before)[1] == pytest.approx(1 - math.cos(1))


def test_a_fingerprint_is_read_in_pieces() -> None:
    """Two pieces and a half give sum(x) and sum(x cos(i)) over all of them; nothing as large as the tensor is made."""
    tensor = torch.randn(int(2.5 * PIECE), generator=torch.Generator().manual_seed(0))
    x = tensor.numpy().astype(np.float64)
    assert fingerprint(tensor) == pytest.approx((x.sum(), (x * np.cos(np.arange(len(x)))).sum()), rel=1e-9)
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            nonlocal largest
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.dtype == torch.float64:
                largest = max(largest, result.numel())
            return result

    with Watch():
        fingerprint(tensor)
    assert largest == PIECE


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_a_dead_adapter_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """An adapter whose output is cut from the graph trains nothing, with a normal loss: the third update says so.

    Packs take the fused layers, which ask ``projection_of``; padded batches the hook, ``after``.
    """
    plain, known = LoraAdapter.after, preparation.projection_of

    def cut(self: LoraAdapter, host: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        made = plain(self, host, args, kwargs, output)
        return made.detach() + (output - output.detach()) if host.in_features == 64 else made  # type: ignore[operator]

    def cut_fused(host: Any) -> Any:
        found = known(host)
        if found is None or found.A is None or host.in_features != 64:
            return found
        return replace(found, A=found.A.detach(), B=found.B.detach())

    monkeypatch.setattr(LoraAdapter, "after", cut)
    monkeypatch.setattr(preparation, "projection_of", cut_fused)
    with pytest.raises(TrainingStopped, match="had no gradient") as caught:
        start_run(configured(tmp_path, batches={"layout": layout}))
    assert "down_proj" in caught.value.where and "q_proj" not in caught.value.where
    log = read_lines(tmp_path / "runs/run/metrics.jsonl")
    assert log[-1]["kind"] == "stopped" and "gradient" in log[-1]["reason"]


def job_of(tmp_path: Path, **sections: Any) -> Any:
    setup = set_up(configured(tmp_path, **sections))
    return make_job(setup, Scorer(setup, []), RunFolder(tmp_path / "unused"))


@pytest.mark.parametrize("layout", ["packed", "padded", "bucketed"])
def test_rehearsal_runs_the_heaviest_micro_batch(tmp_path: Path, layout: str) -> None:
    """Held against all micro-batches of the epoch: none has more places. No gradient stays behind."""
    job = job_of(tmp_path, train={"max_steps": 5}, batches={"layout": layout})
    every = [batch["input_ids"].numel() for step in range(5) for batch in job.updates[step]]
    assert rehearsal.rehearse(job) >= sorted(every)[-2]
    assert all(p.grad is None for _, p in job.trainable)


def test_rehearsal_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With dropout, a run with the rehearsal and one without have equal losses to the bit."""
    losses = []
    for name in ("with", "without"):
        (tmp_path / name).mkdir()
        if name == "without":
            monkeypatch.setattr("burnish.train.run.rehearse", lambda job: 0)
        config = configured(tmp_path / name, adapter={"method": "lora", "dropout": 0.3})
        lines = read_lines(start_run(config).folder / "metrics.jsonl")
        losses.append([line["loss"] for line in lines if line["kind"] == "train"])
    assert losses[0] == losses[1]


def test_rehearsal_out_of_memory_offers_ways_that_keep_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = job_of(tmp_path)

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(rehearsal, "backward", full)
    with pytest.raises(UserError, match="memory does not suffice") as caught:
        rehearsal.rehearse(job)
    assert "batches.micro_batch_tokens=" in caught.value.fix
    assert "gradient_checkpointing=true" in caught.value.fix


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose third update is refused: a bias-like fault poisons one layer from then on."""
    calls = {"updates": 0}
    plain, known = LoraAdapter.after, preparation.projection_of

    def poisoned(self: LoraAdapter, host: nn.Module, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
        made = plain(self, host, args, kwargs, output)
        return made * math.inf if calls["updates"] >= 2 and host.in_features == 64 else made  # type: ignore[operator]

    def poisoned_fused(host: Any) -> Any:
        found = known(host)
        late = found is not None and calls["updates"] >= 2 and host.in_features == 64
        return replace(found, scale=math.inf) if late else found

    monkeypatch.setattr(LoraAdapter, "after", poisoned)
    monkeypatch.setattr(preparation, "projection_of", poisoned_fused)

    def count(event: Any) -> None:
        calls["updates"] += type(event).__name__ == "Stepped"

    with pytest.raises(TrainingStopped, match="update 3"):
        start_run(configured(tmp_path, checkpoint={"every_steps": 1}), callbacks=[count])
    return tmp_path / "runs/run"


def test_a_refused_update_is_kept_and_replayed(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Eight rows, none with a finite loss, and the first module that went wrong; the last checkpoint is step 2."""
    found = replay(stopped)
    assert found.step == 3
    assert len(found.rows) == 8 and all(row["loss"] is None for row in found.rows)
    assert found.modules[0] == "model.layers.0.mlp.down_proj"
    assert not found.weights and found.gradients
    assert sorted(p.name for p in (stopped / "checkpoints").iterdir())[-1] == "step-000002"
    assert call(["replay-batch", str(stopped)]) == 0
    assert "not finite" in capsys.readouterr().out
    assert call(["replay-batch", str(stopped), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == 3


def test_a_stopped_run_resumes_from_its_last_good_checkpoint(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    result = resume_run(stopped)
    assert result.reason == "completed" and result.step == 6


def test_replaying_a_run_that_was_not_stopped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no update of this run was refused"):
        replay(start_run(configured(tmp_path)).folder)
