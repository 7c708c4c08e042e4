"""Fused layers against the model's own: values, gradients, adapters, checkpointing, and when they stand aside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from burnish.adapters.attach import attach
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.core.types import Batch
from burnish.models import fused_llama as room
from burnish.models.forward import hidden_states, supports_packing
from burnish.models.fuse import fuse, unfuse
from tests.models.architectures import build
from tests.support.tiny import tiny

LENGTHS = (7, 4, 9)


def pack() -> Batch:
    ids = torch.randint(3, 100, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in LENGTHS])[None]
    return {"input_ids": ids, "position_ids": positions, "segment_lengths": LENGTHS}


def lora_model(**settings: Any) -> tuple[Any, Any]:
    model = tiny("llama")
    assert supports_packing(model)
    attached = attach(model, LoraConfig(rank=4, **settings))
    with torch.no_grad():
        for name, p in attached.trainable():
            if name.endswith("B"):
                p.normal_(std=0.1, generator=torch.Generator().manual_seed(len(name)))
    return model.train(), attached


def outcome(model: Any, parameters: list[Tensor]) -> list[Tensor]:
    """Hidden states, and the gradients of a weighted sum of them."""
    hidden = hidden_states(model, pack())
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))
    return [hidden.detach(), *torch.autograd.grad((hidden * weights).sum(), parameters)]


def agree(found: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora(checkpointing: bool) -> None:
    """Same values and gradients in fp32 to 1e-5, with activation checkpointing and without."""
    model, attached = lora_model()
    parameters = [p for _, p in attached.trainable()]
    wanted = outcome(model, parameters)
    assert fuse(model, projection_of) == model.config.num_hidden_layers
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    agree(outcome(model, parameters), wanted)


def test_checkpointing_still_drops_what_is_kept() -> None:
    """A fused layer under activation checkpointing saves its input and little else."""
    model, _ = lora_model()
    fuse(model, projection_of)

    def saved() -> int:
        count = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (count.append(t.numel()), t)[1], lambda t: t):
            hidden_states(model, pack())
        return sum(count)

    before = saved()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert saved() < before / 3


def test_full_tuning_and_norms() -> None:
    """Gradients of every weight of the layers, the norms' included."""
    model = tiny("llama").train()
    supports_packing(model)
    parameters = [p for n, p in model.named_parameters() if "layers" in n]
    wanted = outcome(model, parameters)
    assert fuse(model)
    agree(outcome(model, parameters), wanted)


@pytest.mark.parametrize("name", ["mistral", "qwen2"])
def test_relatives(name: str) -> None:
    model = build(name).train()
    supports_packing(model)
    parameters = [p for n, p in model.named_parameters() if "layers" in n]
    wanted = outcome(model, parameters)
    assert fuse(model) == model.config.num_hidden_layers
    agree(outcome(model, parameters), wanted)


def test_other_architectures_are_left_alone() -> None:
    for name in ("gpt2", "bert", "t5"):
        assert fuse(tiny(name)) == 0


def test_a_hook_on_any_part_of_a_layer_is_honoured() -> None:
    """Whatever hangs on a module that the fused layer would pass by makes the layer take its own way."""
    model, _ = lora_model()
    fuse(model, projection_of)
    for path in ("mlp", "self_attn", "input_layernorm", "mlp.act_fn", "self_attn.q_proj"):
        plain = hidden_states(model, pack()).detach()
        host = model.get_submodule(f"model.layers.1.{path}")

        def double(module: Any, args: Any, output: Any) -> Any:
            return (output[0] * 2, *output[1:]) if isinstance(output, tuple) else output * 2

        handle = host.register_forward_hook(double)
        assert not torch.allclose(hidden_states(model, pack()), plain), path
        handle.remove()
        assert torch.equal(hidden_states(model, pack()), plain)


def test_dropout_takes_the_plain_way_while_training() -> None:
    model, _ = lora_model(dropout=0.5)
    fuse(model, projection_of)
    host = model.model.layers[0].mlp.up_proj
    assert projection_of(host) is None
    model.eval()
    assert projection_of(host) is not None


def test_switched_off_adapters_give_the_base() -> None:
    model, attached = lora_model()
    base = tiny("llama")
    supports_packing(base)
    fuse(model, projection_of)
    with attached.disabled(), torch.no_grad():
        agree([hidden_states(model.eval(), pack())], [hidden_states(base.eval(), pack())])


def test_unfuse_and_padded_batches() -> None:
    """A batch without segments goes the model's own way, to the bit; so does everything after ``unfuse``."""
    model, _ = lora_model()
    padded: Batch = {"input_ids": pack()["input_ids"]}
    before, packed = hidden_states(model, padded), hidden_states(model, pack())
    fuse(model, projection_of)
    assert torch.equal(hidden_states(model, padded), before)
    unfuse(model)
    assert torch.equal(hidden_states(model, pack()), packed)
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_layers_that_differ_are_taken_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fused layer that gives something else than the layer's own forward is found by the probe."""
    model, _ = lora_model()
    known = room._norm

    def wrong(module: Any, hidden: Tensor) -> Any:
        return replace(known(module, hidden), weight=module.weight * 1.5)

    monkeypatch.setattr(room, "_norm", wrong)
    assert fuse(model, projection_of) == 0
    assert not any("forward" in m.__dict__ for m in model.modules())


def test_parameter_names_and_class_stay() -> None:
    model, _ = lora_model()
    names, kind = [n for n, _ in model.named_parameters()], type(model.model.layers[0])
    fuse(model, projection_of)
    assert [n for n, _ in model.named_parameters()] == names and type(model.model.layers[0]) is kind
