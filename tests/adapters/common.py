"""What the tests of adapters share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NAMES = ("gpt2", "llama", "bert", "t5")


@torch.no_grad()
def logits(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Logits without a graph; T5's attention takes another kernel when its position bias wants a gradient."""
    return model(**inputs).logits


def loss(model: nn.Module, inputs: dict[str, Tensor], rows: slice = slice(None)) -> Tensor:
    """Summed cross-entropy against labels that follow from the inputs alone, so that every model has a loss."""
    part = {key: value[rows] for key, value in inputs.items()}
    out: Any = model(**part).logits
    labels = part.get("decoder_input_ids", part["input_ids"]).roll(-1, 1)
    return F.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="sum")


def gradients(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Tensor]:
    """A copy of every gradient; None would be a dead parameter and fails."""
    copies = {}
    for name, parameter in named:
        assert parameter.grad is not None, f"{name} has no gradient"
        copies[name] = parameter.grad.clone()
    return copies


def randomize(named: Iterable[tuple[str, nn.Parameter]], seed: int = 0, std: float = 0.1) -> None:
    """Replace parameters by normal values: LoRA starts at zero and would prove nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in named:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)


def train_steps(model: nn.Module, named: list[tuple[str, nn.Parameter]], inputs: dict[str, Tensor], steps: int) -> None:
    """A few AdamW updates without weight decay."""
    optimizer = torch.optim.AdamW([p for _, p in named], lr=1e-2, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model, inputs).backward()
        optimizer.step()
