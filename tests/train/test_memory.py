"""The `memory` section, and selective checkpointing: what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from burnish.core.errors import UserError
from burnish.models.recompute import KEPT, checkpoint_activations, selective_contexts
from burnish.ops.offload import Offload
from burnish.train.memory import MemoryConfig, keeping
from burnish.train.run import start_run
from tests.support.recipes import configured
from tests.support.tiny import tiny, tiny_inputs


class Count(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name().split(".")[0]
        self.counts[name] = self.counts.get(name, 0) + 1
        return function(*args, **(kwargs or {}))


def backward_counts(mode: bool | str) -> dict[str, int]:
    """Operators of a backward pass of two layers."""
    model = tiny("llama").train()
    if mode:
        checkpoint_activations(model, selective=mode == "selective")
    hidden: Tensor = model.base_model(**tiny_inputs("llama"), use_cache=False).last_hidden_state
    with Count() as count:
        hidden.square().sum().backward()
    return count.counts


def test_selective_checkpointing_recomputes_what_is_cheap_only() -> None:
    """A layer has seven products and one attention, and a backward pass two products for each: without checkpointing
    2 * 2 * 7 = 28, with it as many and 2 * 7 = 14 again, less the last one of each layer, whose result nobody asks
    for; selectively none again. Its norms are made again in both."""
    plain, whole, selective = (backward_counts(mode) for mode in (False, True, "selective"))
    assert plain["aten::mm"] == 28
    assert whole["aten::mm"] in (40, 42)
    assert selective["aten::mm"] == plain["aten::mm"]
    attention = "aten::_scaled_dot_product_flash_attention_for_cpu"
    assert attention in KEPT and attention not in plain and attention not in selective and whole[attention] == 2
    assert "aten::rsqrt" not in plain and selective["aten::rsqrt"] == whole["aten::rsqrt"] > 0


def test_a_product_that_is_changed_in_place_is_kept_as_it_was() -> None:
    """y = x W, y += x V, sin y: kept as changed, the recomputation would add x V twice, and cos y would be another."""
    x, frozen, trained = (torch.randn(4, 4, generator=torch.Generator().manual_seed(i)) for i in range(3))
    trained.requires_grad_()

    def layer(x: Tensor) -> Tensor:
        return (x @ frozen).addmm_(x, trained).sin()

    kept = checkpoint(layer, x, use_reentrant=False, context_fn=selective_contexts)
    ours, theirs = (torch.autograd.grad(y.sum(), trained)[0] for y in (kept, layer(x)))
    assert torch.equal(ours, theirs)


def test_offloading_to_the_host_is_refused_on_the_host(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this run computes on it") as caught:
        start_run(configured(tmp_path, memory={"activation_offload": True}))
    assert "memory.activation_offload=false" in caught.value.fix and not (tmp_path / "runs").exists()


def test_the_context_of_a_forward_pass() -> None:
    model = torch.nn.Linear(2, 2)
    assert not isinstance(keeping(MemoryConfig(), model), Offload)
    assert isinstance(keeping(MemoryConfig(activation_offload=True), model), Offload)
