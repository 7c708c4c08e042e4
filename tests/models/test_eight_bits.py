"""Which maps multiply in 8 bits, when, and of which weights."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from burnish.adapters.attach import attach
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.models.eight_bits import eight_bits_of, exact_maps, round_maps
from burnish.models.forward import hidden_states, supports_packing
from burnish.models.frozen import multiplied
from burnish.models.fuse import fuse, fused_maps, unfuse
from burnish.ops.eight_bits import available
from tests.models.test_fuse import bert, outcome, pack
from tests.models.test_fuse_beside import ON_BERT, ON_LLAMA, moved
from tests.support.tiny import tiny

pytestmark = pytest.mark.skipif(not available(), reason="the processor multiplies no 8 bits, or there is no compiler")


def model_of(name: str) -> Any:
    model = bert() if name == "bert" else tiny(name, dtype=torch.bfloat16)
    assert supports_packing(model)
    return model


def lora(name: str = "llama") -> tuple[Any, list[Tensor]]:
    model = model_of(name)
    attached = moved(model, [LoraConfig(rank=4)])
    return model.train(), [p for _, p in attached.trainable()]


def seeded(model: Any, parameters: list[Tensor]) -> list[Tensor]:
    """``outcome`` with the same dropout each time."""
    torch.manual_seed(0)
    return outcome(model, parameters)


def angle(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Cosine of all that is in two lists."""
    one, other = (torch.cat([t.flatten().double() for t in tensors]) for tensors in (found, wanted))
    return float(F.cosine_similarity(one, other, 0))


@pytest.mark.parametrize("name", ["llama", "bert"])
def test_gradients_are_near_exact_ones_and_evaluation_is_exact(name: str) -> None:
    """In training values and gradients differ a little, in evaluation not by a bit; taken back, nothing does."""
    model, parameters = lora(name)
    assert fuse(model, projection_of) == 2
    exact = seeded(model, parameters)
    hosts = fused_maps(model)
    assert len(hosts) == 2 * (7 if name == "llama" else 6)
    model.eval()
    scored = seeded(model, parameters)
    assert round_maps(hosts) > sum(2 * host.weight.numel() for host in hosts)  # a byte each, twice, and scales
    assert all(torch.equal(a, b) for a, b in zip(seeded(model, parameters), scored, strict=True))
    rounded = seeded(model.train(), parameters)
    assert not torch.equal(rounded[0], exact[0])
    assert angle(rounded[:1], exact[:1]) > 0.999 and angle(rounded[1:], exact[1:]) > 0.98
    exact_maps(hosts)
    assert all(torch.equal(a, b) for a, b in zip(seeded(model, parameters), exact, strict=True))


@pytest.mark.parametrize("name", ["llama", "bert"])
@pytest.mark.parametrize("which", range(7))
def test_every_method_that_fused_layers_know(name: str, which: int) -> None:
    """Whatever hangs beside the maps, gradients stay near exact ones; dropout draws the same in both."""
    kinds = {"llama": ON_LLAMA, "bert": ON_BERT}[name]
    configs = list(kinds.values())[which]
    model = model_of(name)
    parameters = [p for _, p in moved(model, configs).trainable()]
    model.train()
    assert fuse(model, projection_of) == 2
    exact = seeded(model, parameters)
    round_maps(fused_maps(model))
    rounded = seeded(model, parameters)
    assert not torch.equal(rounded[0], exact[0])
    assert angle(rounded[1:], exact[1:]) > 0.97


def test_packing_changes_nothing() -> None:
    """Rows are rounded by themselves, so a row has the same hidden states in a pack and alone, to bf16's rounding."""
    model, parameters = lora()
    fuse(model, projection_of)
    round_maps(fused_maps(model))
    together = outcome(model, parameters)[0]
    whole, start = pack(), 0
    for length in whole["segment_lengths"]:
        part = slice(start, start + length)
        alone = {"input_ids": whole["input_ids"][:, part], "position_ids": whole["position_ids"][:, part]}
        torch.testing.assert_close(
            hidden_states(model, {**alone, "segment_lengths": (length,)}).detach(),
            together[:, part],
            rtol=0.02,
            atol=0.02,
        )
        start += length


def test_a_trained_matrix_is_exact_and_rounded_anew_when_it_is_frozen_again() -> None:
    """Stages train what others froze: no product may read what a matrix once was."""
    host = nn.Linear(64, 48).bfloat16().requires_grad_(False)
    round_maps([host])
    first = eight_bits_of(host)
    assert first is not None and eight_bits_of(host) is first
    host.requires_grad_(True)
    assert eight_bits_of(host) is None
    host.requires_grad_(False)
    with torch.no_grad():
        host.weight.mul_(2)
    second = eight_bits_of(host)
    assert second is not None and second is not first
    assert torch.equal(second.by_output.scales, 2 * first.by_output.scales)
    host.weight = nn.Parameter(torch.zeros(48, 64).bfloat16(), requires_grad=False)
    third = eight_bits_of(host)
    assert third is not None and not third.by_output.scales.any()
    assert eight_bits_of(host.eval()) is None


def test_what_is_multiplied() -> None:
    """The maps of fused layers and the model's own head; not the head where another one takes its place; nothing of a
    model whose layers are its own."""
    model, _ = lora()
    assert multiplied(model, classifies=False) == []
    fuse(model, projection_of)
    assert len(multiplied(model, classifies=True)) == 14
    assert multiplied(model, classifies=False)[-1] is model.get_output_embeddings()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    assert len(multiplied(model, classifies=True)) == 13
    unfuse(model)
    assert multiplied(model, classifies=False) == []
    assert multiplied(tiny("gpt2"), classifies=False) == []


def test_a_copy_is_exact() -> None:
    """A frozen copy of the model, such as a teacher, is another model."""
    model = tiny("llama", dtype=torch.bfloat16)
    attach(model, LoraConfig(rank=4))
    fuse(model, projection_of)
    round_maps(fused_maps(model))
    assert all(eight_bits_of(host) is None for host in deepcopy(model).modules() if isinstance(host, nn.Linear))
