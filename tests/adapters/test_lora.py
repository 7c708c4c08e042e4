"""LoRA: hand-worked values, equality with `peft`, number formats, and what it refuses."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.adapters.attach import Attached, attach
from burnish.adapters.base import NotMergeable
from burnish.adapters.lora import LoraAdapter, LoraConfig
from burnish.core.config import build
from burnish.core.errors import UserError
from tests.adapters.common import NAMES, gradients, logits, loss, randomize
from tests.support.tiny import tiny, tiny_inputs


def filled(host: nn.Module, A: list[list[float]], B: list[list[float]], scale: float) -> LoraAdapter:
    adapter = LoraAdapter(host, len(A), scale)
    with torch.no_grad():
        adapter.A.copy_(torch.tensor(A))
        adapter.B.copy_(torch.tensor(B))
    return adapter


def test_update_by_hand() -> None:
    """x = [1, 2], A = [[1, 1]], B = [[1], [2], [0]], s = 0.5: B A x = [3, 6, 0], so h = W x + [1.5, 3, 0]."""
    host = nn.Linear(2, 3, bias=False)
    adapter = filled(host, [[1.0, 1.0]], [[1.0], [2.0], [0.0]], 0.5)
    x = torch.tensor([[1.0, 2.0]])
    output = adapter.after(host, (x,), {}, host(x))
    torch.testing.assert_close(output - host(x), torch.tensor([[1.5, 3.0, 0.0]]))


def test_merge_by_hand() -> None:
    """s B A = 0.5 [[1, 1], [2, 2], [0, 0]] is added to a Linear's weight, and its transpose to a Conv1D's."""
    wanted = torch.tensor([[0.5, 0.5], [1.0, 1.0], [0.0, 0.0]])
    for host, delta in ((nn.Linear(2, 3), wanted), (Conv1D(3, 2), wanted.t())):
        before = host.weight.detach().clone()
        filled(host, [[1.0, 1.0]], [[1.0], [2.0], [0.0]], 0.5).merge_(host)
        torch.testing.assert_close(host.weight.detach() - before, delta)


def test_embedding_by_hand() -> None:
    """Row 1 of a table of 3 gets s B A[:, 1] = 2 * [1, 10] * 5 = [10, 100]."""
    host = nn.Embedding(3, 2)
    adapter = filled(host, [[4.0, 5.0, 6.0]], [[1.0], [10.0]], 2.0)
    ids = torch.tensor([1])
    torch.testing.assert_close(adapter.after(host, (ids,), {}, host(ids)) - host(ids), torch.tensor([[10.0, 100.0]]))


@pytest.mark.parametrize(
    ("given", "alpha", "scale"),
    [
        ({}, 32.0, 2.0),  # 2 * 16 / 16
        ({"rank": 4}, 8.0, 2.0),
        ({"rank": 4, "alpha": 1}, 1.0, 0.25),
        ({"rank": 16, "rslora": True}, 8.0, 2.0),  # 8 / sqrt(16)
        ({"rank": 64, "alpha": 16, "rslora": True}, 16.0, 2.0),  # 16 / 8
    ],
)
def test_scale(given: dict[str, Any], alpha: float, scale: float) -> None:
    config = LoraConfig(**given)
    assert (config.resolved_alpha, config.scale) == (alpha, scale)


def test_initial_values() -> None:
    """Kaiming-uniform with a = sqrt(5) lies within 1 / sqrt(D_in) and has variance 1 / (3 D_in); B is zero."""
    host = nn.Linear(400, 300)
    adapter = LoraAdapter(host, 64, 1.0, generator=torch.Generator().manual_seed(0))
    A = adapter.A.detach()
    assert float(A.abs().max()) <= 1 / math.sqrt(400)
    assert float(A.var()) == pytest.approx(1 / 1200, rel=0.03)
    assert not adapter.B.any()
    assert adapter.A.dtype == adapter.B.dtype == torch.float32


def test_a_site_starts_alike_whichever_others_are_chosen() -> None:
    few = attach(tiny("llama"), LoraConfig(targets="q_proj"), seed=7)
    many = attach(tiny("llama"), LoraConfig(), seed=7)
    other = attach(tiny("llama"), LoraConfig(), seed=8)
    name, wanted = next((n, p) for n, p in few.trainable() if n.endswith("A"))
    assert torch.equal(dict(many.trainable())[name], wanted)
    assert not torch.equal(dict(other.trainable())[name], wanted)
    first, second = [p for n, p in few.trainable() if n.endswith("A")]
    assert not torch.equal(first, second)


def with_peft(model: PreTrainedModel, attached: Attached, config: LoraConfig) -> Any:
    """A `peft` model over a base equal to ``model``'s, with the weights of ``attached`` copied one by one."""
    own = {site.site.name: site.adapter for site in attached.placed}
    base = tiny(model.config.model_type)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it remarks that Conv1D wants fan_in_fan_out, and sets it
        wrapped = peft.get_peft_model(
            base,
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=config.resolved_alpha,  # type: ignore[arg-type]
                use_rslora=config.rslora,
                target_modules=list(own),
            ),
        ).eval()
    with torch.no_grad():
        for name, adapter in own.items():
            layer = base.get_submodule(name)
            if isinstance(layer.get_base_layer(), nn.Embedding):  # type: ignore[operator]
                layer.lora_embedding_A["default"].copy_(adapter.A)  # type: ignore[index,operator,arg-type]
                layer.lora_embedding_B["default"].copy_(adapter.B)  # type: ignore[index,operator,arg-type]
            else:
                layer.lora_A["default"].weight.copy_(adapter.A)  # type: ignore[index,operator,arg-type,union-attr]
                layer.lora_B["default"].weight.copy_(adapter.B)  # type: ignore[index,operator,arg-type,union-attr]
    return wrapped


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rslora", [False, True])
def test_equals_peft_in_logits_and_gradients(name: str, rslora: bool) -> None:
    config = LoraConfig(rank=4, alpha=6, rslora=rslora)
    model, inputs = tiny(name), tiny_inputs(name)
    attached = attach(model, config)
    randomize(attached.trainable())
    oracle = with_peft(model, attached, config)
    model.double(), oracle.double()
    torch.testing.assert_close(logits(model, inputs), logits(oracle, inputs), atol=1e-12, rtol=1e-12)
    model.float(), oracle.float()
    assert not torch.allclose(logits(model, inputs), logits(tiny(name), inputs), atol=1e-2)

    loss(model, inputs).backward()
    loss(oracle, inputs).backward()
    theirs = {n: p.grad for n, p in oracle.named_parameters() if p.requires_grad}
    for full, gradient in gradients(attached.trainable()).items():
        site, _, factor = full.partition(".burnish_adapters.default.lora.")
        other = theirs.pop(f"base_model.model.{site}.lora_{factor}.default.weight")
        torch.testing.assert_close(gradient, other, atol=1e-4, rtol=1e-4, msg=lambda m, n=full: f"{n}: {m}")
    assert not theirs


@pytest.mark.parametrize(("name", "table"), [("gpt2", "wte"), ("llama", "embed_tokens"), ("bert", "word_embeddings")])
def test_embeddings_equal_peft(name: str, table: str) -> None:
    config = LoraConfig(rank=4, targets=table)
    model, inputs = tiny(name), tiny_inputs(name)
    attached = attach(model, config)
    assert torch.equal(logits(model, inputs), logits(tiny(name), inputs))
    randomize(attached.trainable())
    torch.testing.assert_close(logits(model, inputs), logits(with_peft(model, attached, config), inputs))


def test_head_that_shares_its_weight_can_be_trained_but_not_merged() -> None:
    """Merging into lm_head would also change the tied table of embeddings, and with it every input."""
    model, inputs = tiny("llama"), tiny_inputs("llama")
    attached = attach(model, LoraConfig(targets=("lm_head", "q_proj"), rank=4))
    randomize(attached.trainable())
    tuned = logits(model, inputs)
    with pytest.raises(NotMergeable, match=r"`lm_head` shares its weight with `model\.embed_tokens`"):
        attached.merge_()
    assert torch.equal(logits(model, inputs), tuned)
    with attached.disabled():
        assert torch.equal(logits(model, inputs), logits(tiny("llama"), inputs))


def test_small_updates_are_kept_on_a_bf16_base() -> None:
    """Between 2^-4 and 2^-3 neighbouring bf16 numbers lie 2^-11 = 4.9e-4 apart, so 0.1 - 1e-5 rounds back to 0.1.

    Ten AdamW updates at learning rate 1e-5 move a weight by about 1e-4 (the first ones by 1e-5 each, whatever the
    gradient's size). In fp32 all of it is there; the same updates of the same weights in bf16 leave no trace.
    """
    model, inputs = tiny("llama", dtype=torch.bfloat16), tiny_inputs("llama")
    attached = attach(model, LoraConfig(rank=4))
    named = attached.trainable()
    assert {p.dtype for _, p in named} == {torch.float32}
    randomize([(n, p) for n, p in named if n.endswith("B")])
    factors = [p for n, p in named if n.endswith("A")]
    with torch.no_grad():
        for factor in factors:
            factor.copy_(torch.where(factor > 0, 0.1, -0.1).bfloat16())
    before = [p.detach().clone() for p in factors]
    halved = [nn.Parameter(p.detach().bfloat16()) for p in factors]
    optimizer = torch.optim.AdamW(factors, lr=1e-5, weight_decay=0.0)
    in_half = torch.optim.AdamW(halved, lr=1e-5, weight_decay=0.0)
    for _ in range(10):
        model.zero_grad()
        loss(model, inputs).backward()
        for half, factor in zip(halved, factors, strict=True):
            assert factor.grad is not None
            half.grad = factor.grad.bfloat16()
        optimizer.step()
        in_half.step()
    for half, factor, start in zip(halved, factors, before, strict=True):
        assert torch.equal(half.float(), start)
        moved = (factor - start).abs()
        assert float((moved > 5e-6).float().mean()) > 0.95
        assert 2e-5 < float(moved.mean()) < 1.1e-4
    assert logits(model, inputs).dtype == torch.bfloat16


def test_works_under_autocast() -> None:
    model, inputs = tiny("llama"), tiny_inputs("llama")
    attached = attach(model, LoraConfig(rank=4))
    randomize(attached.trainable())
    exact = logits(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss(model, inputs).backward()
        rough = logits(model, inputs)
    assert attached.without_gradient() == []
    assert {p.grad.dtype for _, p in attached.trainable() if p.grad is not None} == {torch.float32}
    torch.testing.assert_close(rough.float(), exact, atol=0.05 * float(exact.abs().max()), rtol=0)


def test_dropout_acts_on_the_update_and_only_while_training() -> None:
    """Dropout rate p zeroes a share p of the update's inputs and scales the others by 1 / (1 - p)."""
    host = nn.Linear(1000, 1, bias=False)
    adapter = LoraAdapter(host, 1, 1.0, dropout=0.25)
    with torch.no_grad():
        adapter.A.fill_(1.0)
        adapter.B.fill_(1.0)
    x = torch.ones(64, 1000)
    base = host(x).detach()
    torch.manual_seed(0)
    kept = (adapter.train().after(host, (x,), {}, host(x)).detach() - base) * 0.75
    assert float(kept.std()) > 1.0
    assert float(kept.mean()) == pytest.approx(750, rel=0.01)
    torch.testing.assert_close(
        adapter.eval().after(host, (x,), {}, host(x)).detach() - base, torch.full((64, 1), 1000.0)
    )


def test_linear_called_with_a_keyword() -> None:
    model = tiny("llama")
    attach(model, LoraConfig(rank=4, targets="q_proj"))
    host = model.get_submodule("model.layers.0.self_attn.q_proj")
    x = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
    assert torch.equal(host(input=x), host(x))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"rank": 33}, "rank 33 is above the smaller side of"),
        ({"targets": "qproj"}, "q_proj"),
        ({"targets": ("q_proj", "nonsense")}, "nonsense"),
        ({"targets": ()}, "targets"),
        ({"targets": "re:("}, r"re:\("),
    ],
)
def test_refuses_and_leaves_the_model_alone(given: dict[str, Any], said: str) -> None:
    model = tiny("llama")
    names = [n for n, _ in model.named_modules()]
    with pytest.raises(UserError, match=said):
        attach(model, LoraConfig(**given))
    assert [n for n, _ in model.named_modules()] == names
    assert all(p.requires_grad for p in model.parameters())


def test_rank_message_names_the_worst_target() -> None:
    model = tiny("llama")
    with pytest.raises(UserError) as caught:
        attach(model, LoraConfig(rank=33, targets=("q_proj", "gate_proj")))
    assert "4 of 4 targets" in caught.value.what
    assert "32 x 32" in caught.value.what
    assert "at most 32" in caught.value.fix


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"rnak": 4}, {"alpha": float("nan")}])
def test_configuration_is_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        build(LoraConfig, wrong)


def test_quantised_weights_are_not_merged() -> None:
    host = nn.Linear(8, 8)
    adapter = LoraAdapter(host, 2, 1.0)
    host.weight = nn.Parameter(torch.zeros(32, 1, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(NotMergeable, match="uint8"):
        adapter.merge_(host)


def test_saved_names_are_those_of_peft(tmp_path: Path) -> None:
    attach(tiny("gpt2"), LoraConfig(rank=4)).save(tmp_path)
    with safe_open(tmp_path / "adapter_model.safetensors", "pt") as file:
        keys = set(file.keys())
        assert file.get_slice("base_model.model.transformer.h.0.attn.c_attn.lora_A.weight").get_shape() == [4, 32]
    assert len(keys) == 2 * 8
