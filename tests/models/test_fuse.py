"""Fused layers against the model's own: values, gradients, adapters, checkpointing, and when they stand aside."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from burnish.adapters.attach import attach
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.adapters.prefix import PrefixConfig
from burnish.core.types import Batch
from burnish.models import fused_llama as room
from burnish.models.attention import use_packed_attention
from burnish.models.forward import hidden_states, supports_packing
from burnish.models.fuse import fuse, unfuse
from burnish.ops.native import kernels
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
    for name in ("gpt2", "t5"):
        assert fuse(tiny(name)) == 0


def bert(**settings: Any) -> Any:
    """A BERT in bf16 whose heads are as wide as the attention kernel wants them."""
    config = BertConfig(
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=96, **settings
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BertModel(config, add_pooling_layer=False)
        for p in model.parameters():
            p.data.normal_(0, 0.15) if p.dim() > 1 else None
    return model.to(torch.bfloat16)


needs_kernels = pytest.mark.skipif(
    not kernels.attention_usable(torch.zeros(1, 1, 32, dtype=torch.bfloat16)),
    reason="no compiled attention: no compiler, or no dot products of bf16 pairs",
)


@needs_kernels
def test_bert_is_no_further_from_float32_than_its_own_layers() -> None:
    """Values and gradients in bf16: the fused layers' error against fp32 is at most 1.5 times the plain ones'.

    The gradient of a key's bias is zero by the softmax's invariance, so that nothing can be said relative to it.
    """
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    exact = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).float().train()
    assert use_packed_attention(model) and use_packed_attention(exact)
    assert supports_packing(model) and supports_packing(exact)
    names = [n for n, _ in model.named_parameters() if "encoder" in n and "key.bias" not in n]
    truth = outcome(exact, [exact.get_parameter(n) for n in names])
    plain = outcome(model, [model.get_parameter(n) for n in names])
    assert fuse(model) == 2
    fused = outcome(model, [model.get_parameter(n) for n in names])

    def error(found: list[Tensor]) -> float:
        return sum(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)) / len(truth)

    assert error(fused) <= 1.5 * error(plain) and error(plain) < 0.1


@needs_kernels
def test_bert_with_lora_and_dropout() -> None:
    """Every adapter has a gradient; two passes with one seed are equal to the bit, with another they differ."""
    model = bert(hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    use_packed_attention(model)
    supports_packing(model)
    attached = attach(model, LoraConfig(rank=4))
    assert fuse(model, projection_of) == 2
    model.train()
    found = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(outcome(model, [p for n, p in attached.trainable() if n.endswith("B")]))
    assert all(torch.equal(a, b) for a, b in zip(found[0], found[1], strict=True))
    assert not torch.equal(found[0][0], found[2][0])
    assert all(float(g.abs().sum()) > 0 for g in found[0])


def test_bert_in_float32_keeps_its_own_layers() -> None:
    assert fuse(tiny("bert")) == 0


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


def test_with_dropout_an_update_is_apart_while_training() -> None:
    """Its product reads another input than the map's; in evaluation it is a part of the map again."""
    model, _ = lora_model(dropout=0.5)
    fuse(model, projection_of)
    host = model.model.layers[0].mlp.up_proj
    apart = projection_of(host)
    assert apart is not None and apart.A is None and apart.reads
    model.eval()
    together = projection_of(host)
    assert together is not None and together.A is not None and not together.reads


@pytest.mark.parametrize("also", [[], [LoraConfig(rank=4)]])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_prefixes(checkpointing: bool, also: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers whose attention has a prefix are fused too, and give what their own forward gives."""
    model = tiny("llama")
    attached = attach(model, [PrefixConfig(num_virtual_tokens=5), *also])
    parameters = [p for _, p in attached.trainable()]
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    wanted = outcome(model.train(), parameters)
    assert fuse(model, projection_of) == 2
    calls: list[int] = []
    own = room.rotary_attention
    monkeypatch.setattr(room, "rotary_attention", lambda *a, **k: calls.append(len(k)) or own(*a, **k))
    agree(outcome(model, parameters), wanted)
    assert calls and set(calls) == {2}
    with attached.disabled():
        outcome_off = hidden_states(model, pack())
        assert calls[-1] == 0
    attached.detach_()
    unfuse(model)
    torch.testing.assert_close(outcome_off, hidden_states(model, pack()), rtol=1e-4, atol=1e-5)


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
