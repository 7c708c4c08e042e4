"""A run with products in 8 bits: the whole way on a tiny model, what it says, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.core.errors import UserError
from burnish.core.events import Event, Stepped
from burnish.forecast.sketch import sketch_of
from burnish.forecast.trace import footprint_of
from burnish.models.eight_bits import eight_bits_of
from burnish.ops.eight_bits import available
from burnish.plan.memory import Overhead, memory_plan
from burnish.train import eight_bits
from burnish.train.run import resume_run, start_run
from burnish.train.setup import set_up
from tests.support.recipes import configured

needs_kernels = pytest.mark.skipif(
    not available(), reason="the processor multiplies no 8 bits, or there is no compiler"
)
INT8: dict[str, Any] = {"train": {"precision": "int8"}}


def folder_in(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


@needs_kernels
def test_a_whole_run(tmp_path: Path) -> None:
    """It trains, says how near its gradients are to exact ones, and hands over a loss near that of bf16."""
    losses = {}
    for precision in ("bf16", "int8"):
        result = start_run(configured(folder_in(tmp_path, precision), train={"precision": precision}))
        losses[precision] = result.tuned["loss"]
    assert losses["int8"] == pytest.approx(losses["bf16"], rel=0.05)
    model = json.loads((result.folder / "model.json").read_text())
    assert model["precision"]["frozen"] == "int8" and model["precision"]["compute"] == "bf16"
    (said,) = (json.loads(line) for line in (result.folder / "findings.jsonl").open() if "train.int8" in line)
    assert said["severity"] == "note" and said["evidence"]["cosine"] > eight_bits.LOW
    assert said["evidence"]["matrices"] == 2 * 7 + 1  # two layers of seven maps, and the head


@needs_kernels
def test_resuming_gives_the_same_weights(tmp_path: Path) -> None:
    """Interrupted after four of six updates and resumed, every weight is that of the run in one go, to the bit."""
    whole, other = (configured(folder_in(tmp_path, name), **INT8) for name in ("one", "two"))

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    assert start_run(other, callbacks=[stop]).reason == "interrupted"
    found = [result.folder / "checkpoints/step-000006" for result in (start_run(whole), resume_run(other.folder))]
    for file in ("trainable.safetensors", "optimizer.safetensors"):
        assert (found[0] / file).read_bytes() == (found[1] / file).read_bytes()


@needs_kernels
@pytest.mark.parametrize(
    ("sections", "why"),
    [
        ({"model": "gpt2"}, "fused layers"),
        ({"adapter": {"method": "full"}}, "frozen weights"),
        ({"batches": {"layout": "padded"}}, "fused layers"),
    ],
)
def test_refused(tmp_path: Path, sections: dict[str, Any], why: str) -> None:
    """Where nothing would multiply in 8 bits, the recipe is refused and not trained otherwise than it says."""
    with pytest.raises(UserError, match=why) as caught:
        set_up(configured(tmp_path, **INT8, **sections))
    assert caught.value.where == "train.precision" and "bf16" in caught.value.fix


def test_refused_without_the_instructions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without them would train in another format; it is said before a row is read."""
    monkeypatch.setattr(eight_bits, "available", lambda: False)
    config = configured(tmp_path, **INT8)
    (tmp_path / "rows.jsonl").unlink()
    with pytest.raises(UserError, match="AVX512-VNNI"):
        set_up(config)


def test_refused_on_a_gpu() -> None:
    """The kernel is a processor's."""
    with pytest.raises(UserError, match="processors"):
        eight_bits.refuse_impossible_precision("int8", torch.device("cuda"))
    eight_bits.refuse_impossible_precision("bf16", torch.device("cuda"))


@needs_kernels
@pytest.mark.parametrize(("low", "lowest", "severity"), [(1.0, 0.5, "warning"), (1.0, 1.0, None)])
def test_gradients_that_are_too_far_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, low: float, lowest: float, severity: str | None
) -> None:
    """Below one limit the run warns, below the other it is refused, and its matrices are exact again."""
    monkeypatch.setattr(eight_bits, "LOW", low)
    monkeypatch.setattr(eight_bits, "LOWEST", lowest)
    config = configured(tmp_path, **INT8)
    if severity is None:
        with pytest.raises(UserError, match="too far for training"):
            set_up(config)
        return
    found = [f for f in set_up(config).findings if f.code == "train.int8"]
    assert [f.severity for f in found] == [severity] and "bf16" in found[0].fix


@needs_kernels
def test_the_plan_counts_the_rounded_matrices(tmp_path: Path) -> None:
    """What a run rounds is in its plan, byte for byte, and products of scoring are exact, so they are prepared too."""
    exact = footprint_of(sketch_of(configured(tmp_path, train={"precision": "bf16"})))
    rounded = footprint_of(sketch_of(configured(tmp_path, **INT8)))
    setup = set_up(configured(tmp_path, **INT8))
    made = [eight_bits_of(m) for m in setup.loaded.model.train().modules() if isinstance(m, torch.nn.Linear)]
    assert rounded.rounded == sum(one.nbytes for one in made if one is not None) > exact.rounded == 0
    assert rounded.weights == exact.weights and 0 < rounded.products < exact.products
    phases = {p.name: p.parts for p in memory_plan(rounded, Overhead(0)).phases}
    assert "matrices in 8 bits" not in phases["load"]
    assert phases["evaluate"]["matrices in 8 bits"] == rounded.rounded
