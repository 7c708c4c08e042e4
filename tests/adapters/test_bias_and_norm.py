"""BitFit, norm tuning and head only: arithmetic by hand, merging, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from burnish.adapters.attach import attach
from burnish.adapters.base import NotMergeable
from burnish.adapters.bitfit import BitfitConfig
from burnish.adapters.head import HeadConfig, HeadDelta
from burnish.adapters.load import load
from burnish.adapters.lora import projection_of
from burnish.adapters.norm import NormConfig, TunedNorm, offset_of
from burnish.core.errors import UserError
from burnish.models.classifier import new_classifier
from burnish.models.forward import supports_packing
from burnish.models.fuse import fuse
from tests.adapters.common import NAMES, logits, loss, randomize, train_steps
from tests.adapters.test_bottleneck import outcome
from tests.models.architectures import CONFIGS, build
from tests.support.tiny import tiny, tiny_inputs


def shaken(model: Any, config: Any) -> Any:
    attached = attach(model, config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in attached.trainable():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    return attached


# --- BitFit -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_bitfit_is_training_the_biases(name: str) -> None:
    """Gradients are those of the model's own biases, inside the layers and of every norm; all biases are among them but
    BERT's head, whose bias is that of its output."""
    model, plain, inputs = tiny(name), tiny(name), tiny_inputs(name)
    attached = attach(model, BitfitConfig())
    loss(model, inputs).backward()
    loss(plain, inputs).backward()
    for item in attached.placed:
        own = plain.get_parameter(f"{item.site.name}.bias").grad
        torch.testing.assert_close(item.adapter.get_parameter("bias").grad, own, atol=2e-5, rtol=1e-4)
    biases = {n.removesuffix(".bias") for n, _ in plain.named_parameters() if n.endswith("bias")}
    left = {"bert": {"cls.predictions", "cls.predictions.transform.dense"}, "gpt2": set()}[name]
    assert biases - {s.name for s in attached.sites} == left


@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_bitfit_merges_into_the_biases_alone(name: str) -> None:
    model, inputs = tiny(name), tiny_inputs(name)
    attached = shaken(model, BitfitConfig())
    before = logits(model, inputs)
    attached.merge_()
    torch.testing.assert_close(logits(model, inputs), before, atol=1e-5, rtol=1e-4)
    changed = {n for n, p in tiny(name).named_parameters() if not torch.equal(p, model.get_parameter(n))}
    assert changed == {f"{s.name}.bias" for s in attached.sites}


@pytest.mark.parametrize(
    ("targets", "count"),
    [("all", 13), ("norm", 5), (("attention.qkv", "mlp.up"), 4), ("ln_f", 1), ("re:h\\.1\\..*bias", 0), ("re:^h", 0)],
)
def test_bitfit_targets(targets: Any, count: int) -> None:
    """GPT-2: four maps and two norms in each of two layers, and a last norm. Patterns look for names of modules."""
    if not count:
        with pytest.raises(UserError, match="matches no module"):
            attach(tiny("gpt2"), BitfitConfig(targets=targets))
        return
    assert len(attach(tiny("gpt2"), BitfitConfig(targets=targets)).sites) == count


def test_bitfit_refuses_where_there_are_none() -> None:
    with pytest.raises(UserError, match="a llama model has no biases, so BitFit would train nothing") as caught:
        attach(tiny("llama"), BitfitConfig())
    assert "add_missing=true" in caught.value.fix
    with pytest.raises(UserError, match=r"attention\.query: there are no biases"):
        attach(tiny("llama"), BitfitConfig(targets="attention.query"))


def test_added_biases_act_and_are_not_merged() -> None:
    """Seven maps and two norms in each of two layers, and a last norm."""
    model, inputs = tiny("llama"), tiny_inputs("llama")
    attached = shaken(model, BitfitConfig(add_missing=True))
    assert len(attached.sites) == 19
    assert not torch.allclose(logits(model, inputs), logits(tiny("llama"), inputs), atol=1e-3)
    with pytest.raises(NotMergeable, match="has no bias, and the model's class would not read one"):
        attached.merge_()


@pytest.mark.parametrize("config", [BitfitConfig(add_missing=True), NormConfig()])
def test_fused_layers_add_biases_and_tune_norms(config: Any) -> None:
    """Behind the products of a fused layer, and behind its norms."""
    model: Any = tiny("llama").train()
    supports_packing(model)
    attached = shaken(model, config)
    parameters: list[Tensor] = [p for _, p in attached.trainable()]
    wanted = outcome(model, parameters)
    assert fuse(model, projection_of) == 2
    for found, expected in zip(outcome(model, parameters), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


# --- norms ------------------------------------------------------------------------------------------------------------


def test_a_norm_by_hand() -> None:
    """LayerNorm of (1, 3) is (-1, 1); with w = (2, 3), c = (1, 0) that is (-1, 3). s = (2, 0.5), b = (1, 1): (-1, 2.5).
    Merged: w = (4, 1.5), c = (2 + 1, 0 + 1)."""
    host = nn.LayerNorm(2, eps=0.0)
    adapter = TunedNorm(host)
    values = {"scale": [2.0, 0.5], "bias": [1.0, 1.0]}
    with torch.no_grad():
        host.weight.copy_(torch.tensor([2.0, 3.0]))
        host.bias.copy_(torch.tensor([1.0, 0.0]))
        for name, value in values.items():
            adapter.get_parameter(name).copy_(torch.tensor(value))
    x = torch.tensor([[1.0, 3.0]])
    assert adapter.after(host, (x,), {}, host(x)).tolist() == [[-1.0, 2.5]]
    adapter.merge_(host)
    assert host(x).tolist() == [[-1.0, 2.5]]
    assert (host.weight.tolist(), host.bias.tolist()) == ([4.0, 1.5], [3.0, 1.0])


@pytest.mark.parametrize("name", NAMES)
def test_peft_trains_the_same_norms_to_the_same_model(name: str) -> None:
    """`peft` trains copies of weight and bias; with s w and s c + b in them it gives the same logits."""
    targets = "|".join(s.name.replace(".", r"\.") for s in attach(tiny(name), NormConfig()).sites)
    theirs: Any = peft.get_peft_model(tiny(name), peft.LNTuningConfig(target_modules=targets)).eval()
    ours, inputs = tiny(name), tiny_inputs(name)
    for item in shaken(ours, NormConfig()).placed:
        copied = theirs.get_submodule(f"base_model.model.{item.site.name}.ln_tuning_layers.default")
        scale, bias = item.adapter.get_parameter("scale"), item.adapter._parameters.get("bias")
        with torch.no_grad():
            copied.weight.mul_(scale)
            if bias is not None:
                copied.bias.mul_(scale).add_(bias)
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_norms_of_every_architecture_merge(name: str) -> None:
    """Gemma's norms multiply by 1 + w, the others by w; Qwen3's also norm single heads."""
    model = build(name)
    attached = shaken(model, NormConfig())
    inputs = {"input_ids": torch.tensor([[5, 9, 11, 3]])}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.tensor([[0, 5]])
    assert {offset_of(item.site.host) for item in attached.placed} == {1.0 if "gemma" in name else 0.0}
    before = logits(model, inputs)
    assert not torch.allclose(before, logits(build(name), inputs), atol=1e-3)
    attached.merge_()
    torch.testing.assert_close(logits(model, inputs), before, atol=2e-4, rtol=2e-4)


def test_a_norm_of_an_unknown_kind_is_not_merged() -> None:
    class OddNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight**2 + x / 3

    with pytest.raises(NotMergeable, match="how a OddNorm uses its weight"):
        offset_of(OddNorm())


@pytest.mark.parametrize(("targets", "count"), [("all", 5), ("input_layernorm", 2), ("re:layers.1", 2), ("norm", 5)])
def test_norm_targets(targets: Any, count: int) -> None:
    assert len(attach(tiny("llama"), NormConfig(targets=targets)).sites) == count


def test_a_norm_that_is_not_there() -> None:
    with pytest.raises(UserError, match="matches no module") as caught:
        attach(tiny("llama"), NormConfig(targets="input_norm"))
    assert "input_layernorm" in caught.value.fix


# --- head -------------------------------------------------------------------------------------------------------------


def test_a_head_by_hand() -> None:
    """W = ((1, 2)), b = 1, D = ((3, -1)), b' = 2: at (1, 1) 4 and then 4 + 2 + 2 = 8, merged too."""
    host = nn.Linear(2, 1)
    adapter = HeadDelta(host)
    with torch.no_grad():
        host.weight.copy_(torch.tensor([[1.0, 2.0]]))
        host.bias.fill_(1.0)
        adapter.weight.copy_(torch.tensor([[3.0, -1.0]]))
        adapter.get_parameter("bias").fill_(2.0)
    x = torch.ones(1, 2)
    assert adapter.after(host, (x,), {}, host(x)).tolist() == [[8.0]]
    adapter.merge_(host)
    assert host(x).tolist() == [[8.0]]


def test_a_tied_head_learns_without_its_embedding() -> None:
    """The input embedding stays; the merge is refused, as it would change both."""
    model, inputs = tiny("llama"), tiny_inputs("llama")
    attached = attach(model, HeadConfig())
    train_steps(model, attached.trainable(), inputs, 2)
    assert [s.name for s in attached.sites] == ["lm_head"]
    assert torch.equal(model.get_input_embeddings().weight, tiny("llama").get_input_embeddings().weight)
    with pytest.raises(NotMergeable, match=r"`lm_head` shares its weight with `model\.embed_tokens`"):
        attached.merge_()


def test_an_untied_head_merges(tmp_path: Path) -> None:
    model = build("llama", tie_word_embeddings=False)
    attached = attach(model, HeadConfig())
    randomize(attached.trainable())
    inputs = {"input_ids": torch.tensor([[5, 9, 11, 3]])}
    before = logits(model, inputs)
    attached.merge_()
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    torch.testing.assert_close(logits(again, inputs), before, atol=1e-5, rtol=1e-4)


def test_without_an_output_map_the_tasks_head_is_all(tmp_path: Path) -> None:
    """Nothing of the model is trained, so a new head on it is; saving, loading and merging do nothing, and work."""
    model: Any = tiny("bert").bert
    attached = attach(model, HeadConfig())
    assert attached.trainable() == []
    assert not any(p.requires_grad for p in model.parameters())
    head = new_classifier(model, ("a", "b"), "mean", dropout=0.0, bias=True, seed=0)
    assert all(p.requires_grad for _, p in head.named())
    attached.save(tmp_path)
    again: Any = tiny("bert").bert
    loaded = load(tmp_path, again)
    assert loaded.configs == (HeadConfig(),)
    loaded.merge_()
    assert all(p.requires_grad for p in again.parameters())
