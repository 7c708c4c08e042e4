"""Importance by gradients: hand-worked masses, and shares from them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from burnish.adapters.lora import LoraConfig
from burnish.plan.importance import FLOOR, gradient_masses, importance_shares
from tests.plan.methods import LengthConfig, WidthConfig, registered
from tests.support.tiny import tiny


@pytest.fixture(autouse=True)
def methods() -> Iterator[None]:
    with registered():
        yield


def test_masses_are_gradient_times_weight_summed_over_batches() -> None:
    """y = w x with w = (2, -3): the loss x_1 w_1 + x_2 w_2 has gradient x. Over x = (1, 4) and (2, -1) it is (3, 3),
    so the mass is |3 * 2| + |3 * -3| = 15."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[2.0, -3.0]])
    model.weight.requires_grad_(False)
    rows = (torch.tensor([1.0, 4.0]), torch.tensor([2.0, -1.0]))
    assert gradient_masses(model, (model(x).sum() for x in rows)) == {"weight": pytest.approx(15.0)}
    assert not model.weight.requires_grad and model.weight.grad is None


def test_a_weight_where_two_methods_act_counts_half_for_each() -> None:
    """Of the mass 8 in the layers LoRA and the width get 4 each (both reach all of it), the inputs' 2 are the length's;
    the final norm's 90 are nobody's. Shares 0.4, 0.4, 0.2."""
    model = tiny("llama")
    masses = {
        "model.layers.0.self_attn.q_proj.weight": 3.0,
        "model.layers.1.mlp.down_proj.weight": 5.0,
        "model.embed_tokens.weight": 2.0,
        "model.norm.weight": 90.0,
    }
    shares = importance_shares(model, [LoraConfig(), WidthConfig(), LengthConfig()], masses)
    assert shares == pytest.approx({"lora": 0.4, "test-width": 0.4, "test-length": 0.2})


def test_no_method_is_left_without_a_share() -> None:
    """All mass at the inputs: 0.05, 0.05 and 1, divided by their sum."""
    shares = importance_shares(
        tiny("llama"), [LoraConfig(), WidthConfig(), LengthConfig()], {"model.embed_tokens.weight": 1.0}
    )
    assert shares["lora"] == pytest.approx(FLOOR / 1.1) and sum(shares.values()) == pytest.approx(1.0)
