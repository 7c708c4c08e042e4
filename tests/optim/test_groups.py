"""Parameter groups and AdamW."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from burnish.core.errors import UserError
from burnish.optim.config import OptimConfig
from burnish.optim.groups import build_optimizer, parameter_groups
from tests.support.tiny import tiny


def test_only_matrices_decay() -> None:
    model = tiny("bert")
    named = list(model.named_parameters())
    decayed, plain = parameter_groups(named, 0.1)
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    names = {id(p): n for n, p in named}
    assert {names[id(p)] for p in plain["params"]} == {n for n, p in named if n.endswith("bias") or "LayerNorm" in n}
    assert len(decayed["params"]) + len(plain["params"]) == len(named)


def test_groups_by_rate() -> None:
    """LoRA+ gives B a rate of its own; each group carries its factor for the loop."""
    named = [(n, nn.Parameter(torch.zeros(2, 2))) for n in ("x.A", "x.B", "y.A", "y.B")]
    groups = parameter_groups(named, 0.0, {"x.B": 16.0, "y.B": 16.0})
    assert [(g["rate_scale"], [id(p) for p in g["params"]]) for g in groups] == [
        (1.0, [id(named[0][1]), id(named[2][1])]),
        (16.0, [id(named[1][1]), id(named[3][1])]),
    ]
    optimizer = build_optimizer(named, OptimConfig(), 1e-3, rate_scales={"x.B": 16.0, "y.B": 16.0})
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([1e-3, 16e-3])
    with pytest.raises(ValueError, match="not trained: z"):
        parameter_groups(named, 0.0, {"z": 1.0})


def test_first_update_by_hand() -> None:
    """AdamW's first step is lr * g / (|g| + eps) = 0.1 for a gradient of any size, after decay p (1 - lr * wd).

    A matrix of 1 with decay 0.5: 1 * (1 - 0.05) - 0.1 = 0.85. A bias, not decayed: 0.9.
    """
    named = [("weight", nn.Parameter(torch.ones(2, 2))), ("bias", nn.Parameter(torch.ones(2)))]
    optimizer = build_optimizer(named, OptimConfig(learning_rate=0.1, weight_decay=0.5))
    for _, parameter in named:
        parameter.grad = torch.full_like(parameter, 3.0)
    optimizer.step()
    torch.testing.assert_close(named[0][1].detach(), torch.full((2, 2), 0.85))
    torch.testing.assert_close(named[1][1].detach(), torch.full((2,), 0.9))


def test_settings_arrive() -> None:
    named = [("w", nn.Parameter(torch.ones(2, 2)))]
    (group,) = build_optimizer(named, OptimConfig(betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1), 1e-4).param_groups
    assert (group["lr"], group["betas"], group["eps"], group["weight_decay"]) == (1e-4, (0.8, 0.95), 1e-6, 0.1)


def test_refusals() -> None:
    with pytest.raises(UserError, match="nothing is trained"):
        build_optimizer([], OptimConfig(), 1e-4)
    half = [("w", nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16)))]
    with pytest.raises(UserError, match="bfloat16, where small updates are rounded away"):
        build_optimizer(half, OptimConfig(), 1e-4)
