"""The fused layers of BERT with adapters ahead of their maps and behind them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from burnish.adapters.attach import attach
from burnish.adapters.base import MethodConfig
from burnish.adapters.bitfit import BitfitConfig
from burnish.adapters.bottleneck import BottleneckConfig
from burnish.adapters.ia3 import Ia3Config
from burnish.adapters.lora import projection_of
from burnish.adapters.norm import NormConfig
from burnish.models.attention import use_packed_attention
from burnish.models.forward import supports_packing
from burnish.models.fuse import fuse
from tests.models.test_fuse import bert, needs_kernels, outcome


def prepared(config: MethodConfig, dtype: torch.dtype) -> tuple[Any, list[Tensor]]:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).to(dtype).train()
    assert use_packed_attention(model)
    assert supports_packing(model)
    attached = attach(model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in attached.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)
    # the gradient of what moves a key's bias is zero, so that nothing can be said relative to it
    return model, [p for n, p in attached.trainable() if not (config.method == "bitfit" and ".key." in n)]


@needs_kernels
@pytest.mark.parametrize(
    "config",
    [
        BottleneckConfig(placement="both", activation="gelu"),
        Ia3Config(),
        BitfitConfig(),
        NormConfig(),
        BottleneckConfig(form="parallel"),
    ],
    ids=lambda config: f"{config.method}-{getattr(config, 'form', '')}",
)
def test_no_further_from_float32_than_the_plain_way(config: MethodConfig) -> None:
    """Values and gradients in bf16: the fused layers' error against fp32 is at most 1.5 times the plain ones'."""
    exact, parameters = prepared(config, torch.float32)
    truth = outcome(exact, parameters)
    model, parameters = prepared(config, torch.bfloat16)
    plain = outcome(model, parameters)
    assert fuse(model, projection_of) == 2
    fused = outcome(model, parameters)

    def error(found: list[Tensor]) -> float:
        return sum(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)) / len(truth)

    assert error(fused) <= 1.5 * error(plain)
    assert error(plain) < 0.1


@needs_kernels
@pytest.mark.parametrize("path", ["output", "output.LayerNorm", "attention.output.LayerNorm", "intermediate"])
def test_a_hook_that_is_not_an_adapter_s_takes_the_plain_way(path: str) -> None:
    """Beside an adapter too, whose own hooks are followed."""
    for config in (BottleneckConfig(form="parallel"), BottleneckConfig(form="after-norm")):
        model, _ = prepared(config, torch.bfloat16)
        for layer in model.encoder.layer:
            layer.get_submodule(path).register_forward_hook(lambda module, args, output: output * 2)
        assert fuse(model, projection_of) == 0
