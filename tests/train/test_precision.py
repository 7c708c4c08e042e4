"""Number formats: small updates must survive, and half precision must stay close to fp32."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from burnish.train.precision import choose_precision
from burnish.train.run import start_run
from burnish.train.setup import set_up
from tests.support.recipes import configured

CPU = torch.device("cpu")


def test_why_trained_weights_stay_in_fp32() -> None:
    """bf16 has 8 significant bits: 1 + 0.001 rounds to 1, since the next number after 1 is 1 + 2**-7. fp32 keeps it."""
    assert torch.tensor(1.0).bfloat16() + 0.001 == 1.0
    assert torch.tensor(1.0) + 0.001 > 1.0


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_trained_weights_are_fp32_in_every_format(tmp_path: Path, name: str, method: str) -> None:
    """Whatever the products are computed in, every trained parameter and both of its moments are fp32."""
    setup = set_up(configured(tmp_path, adapter=method, train={"precision": name}))
    assert {p.dtype for _, p in setup.trainable} == {torch.float32}
    frozen = {p.dtype for p in setup.loaded.model.parameters() if not p.requires_grad}
    assert frozen <= {choose_precision(name, CPU, trains_base=False).base}


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_small_updates_are_not_lost(tmp_path: Path, name: str) -> None:
    """One AdamW step at learning rate 1e-5 moves a weight by 1e-5 (m / sqrt(v) is 1 in the first step).

    Weights here are of the size of 0.1, where bf16 numbers lie 2**-11 = 4.9e-4 apart: in bf16, not one would move.
    """
    train = {"precision": name, "learning_rate": 1e-5, "max_steps": 1, "schedule": "constant", "warmup_ratio": 0.0}
    config = configured(tmp_path, adapter="full", train=train, evaluate={"every_steps": 1})
    before = dict(set_up(config).trainable)
    result = start_run(config)
    after = load_file(result.folder / "final" / "model.safetensors")
    name_of = "model.layers.0.mlp.up_proj.weight"
    moved = (after[name_of] - before[name_of]).abs()
    assert (moved > 0).float().mean() > 0.9
    assert moved.max() <= 2e-5


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_half_precision_follows_fp32(tmp_path: Path, name: str, method: str) -> None:
    """After six updates the validation loss is that of fp32 within 2 %: both formats carry at least 8 bits."""
    values = {}
    for precision in ("fp32", name):
        folder = tmp_path / precision
        folder.mkdir()
        config = configured(folder, adapter=method, train={"precision": precision, "learning_rate": 1e-3})
        values[precision] = start_run(config).tuned["loss"]
    assert values[name] == pytest.approx(values["fp32"], rel=0.02)


def test_fp16_scales_the_loss_and_bf16_does_not() -> None:
    scaled = {n: choose_precision(n, CPU, trains_base=False).scale_loss for n in ("fp32", "bf16", "fp16")}  # type: ignore[arg-type]
    assert scaled == {"fp32": False, "bf16": False, "fp16": True}
