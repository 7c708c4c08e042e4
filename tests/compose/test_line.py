"""The line between original and tuned weights: its ends to the bit, its middle by hand and by `peft`, and averages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from burnish.adapters.attach import Attached, attach
from burnish.adapters.load import load
from burnish.adapters.registry import METHODS
from burnish.compose.average import mean_of
from burnish.compose.line import NoLine, line_between, line_of
from burnish.core.config import build
from burnish.core.errors import UserError
from tests.support.tiny import tiny

IDS = torch.tensor([[5, 17, 33, 9, 120, 4]])
ON_LINES = [
    ("llama", {"method": "lora", "rank": 4}),
    ("llama", {"method": "lora", "rank": 4, "init": "pissa"}),
    ("gpt2", {"method": "lora", "rank": 4, "targets": "attention.qkv", "fused_parts": ["q", "v"]}),
    ("llama", {"method": "adalora"}),
    ("llama", {"method": "vera", "rank": 8}),
    ("llama", {"method": "ia3"}),
    ("gpt2", {"method": "bitfit"}),
    ("gpt2", {"method": "norm"}),
]


def logits(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def tuned(name: str, values: dict[str, Any]) -> tuple[PreTrainedModel, Attached]:
    """A model whose adapters have been moved at random, as if by training."""
    model = tiny(name)
    attached = attach(model, build(METHODS[values["method"]].config, values))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in attached.trainable():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model, attached


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: p.detach().double().clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize(("name", "values"), ON_LINES)
def test_the_ends_are_exact_and_the_middle_is_the_mean_of_the_weights(name: str, values: dict[str, Any]) -> None:
    """At 0 the logits are the original's and at 1 the tuned model's, to the bit. At 0.3 the merged weights are
    0.7 w_original + 0.3 w_merged, in float64: within the rounding of fp32 sums of products."""
    original = tiny(name)
    model, attached = tuned(name, values)
    at_one = logits(model)
    line = line_of(attached)
    line.move_(0.5)
    assert not torch.equal(logits(model), at_one)
    line.move_(0)
    assert torch.equal(logits(model), logits(original))
    line.move_(1)
    assert torch.equal(logits(model), at_one)

    whole, part = tuned(name, values), tuned(name, values)
    line_of(part[1]).move_(0.3)
    for one in (whole, part):
        one[1].merge_()
    before, after, between = weights(original), weights(whole[0]), weights(part[0])
    for key, value in between.items():
        torch.testing.assert_close(value, 0.7 * before[key] + 0.3 * after[key], rtol=1e-5, atol=1e-5)
    assert any(not torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("init", ["kaiming", "pissa"])
def test_peft_reads_a_scaled_adapter(tmp_path: Path, init: str) -> None:
    """Saved at 0.4, read by `peft` and by Burnish: the logits are those of the model that was saved."""
    model, attached = tuned("llama", {"method": "lora", "rank": 4, "init": init})
    line_of(attached).move_(0.4)
    wanted = logits(model)
    attached.save(tmp_path / "saved")
    read = peft.PeftModel.from_pretrained(tiny("llama"), str(tmp_path / "saved"))
    torch.testing.assert_close(logits(read), wanted, rtol=1e-4, atol=1e-4)
    again = tiny("llama")
    load(tmp_path / "saved", again)
    torch.testing.assert_close(logits(again), wanted, rtol=1e-4, atol=1e-4)


def test_whole_models() -> None:
    """Weights that were trained: both ends to the bit, 0.25 by hand, and weights that did not move take no memory."""
    original, model = tiny("llama"), tiny("llama")
    with torch.no_grad():
        weight = model.get_parameter("model.layers.0.mlp.up_proj.weight")
        weight += 0.5
    moved = weight.detach().clone()
    line = line_between(model, original)
    assert len(line.points) == 1
    line.move_(0.25)
    by_hand = original.get_parameter("model.layers.0.mlp.up_proj.weight").double() + 0.125
    torch.testing.assert_close(weight.double(), by_hand, rtol=1e-6, atol=1e-7)
    line.move_(0)
    assert torch.equal(logits(model), logits(original))
    line.move_(1)
    assert torch.equal(weight, moved)
    with pytest.raises(NoLine, match="differ in"):
        line_between(model, tiny("gpt2"))


@pytest.mark.parametrize(
    "values", [{"method": "lora", "rank": 4, "dora": True}, {"method": "prompt"}, {"method": "bottleneck"}]
)
def test_what_has_no_line_says_so(values: dict[str, Any]) -> None:
    _, attached = tuned("llama", values)
    with pytest.raises(NoLine, match="no change of the weights"):
        line_of(attached)


def test_averages_by_hand() -> None:
    """(1 + 2 + 6) / 3 = 3; a single state is itself; states that do not fit are named."""
    states = [{"w": torch.tensor([value])} for value in (1.0, 2.0, 6.0)]
    assert mean_of(states)["w"].item() == 3.0
    assert torch.equal(mean_of(states[:1])["w"], states[0]["w"])
    with pytest.raises(UserError, match="step 4 differs in `w`"):
        mean_of([*states[:1], {"w": torch.zeros(2)}], ["step 2", "step 4"])
    with pytest.raises(UserError, match="no checkpoint"):
        mean_of([])
