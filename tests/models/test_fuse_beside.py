"""Fused layers with what hangs beside their maps: parallel adapters, adapters behind norms, tuned norms, prefixes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from burnish.adapters.attach import Attached, attach
from burnish.adapters.bottleneck import BottleneckConfig
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.adapters.norm import NormConfig
from burnish.adapters.prefix import PrefixConfig
from burnish.models import fused_bert, fused_llama
from burnish.models.attention import use_packed_attention
from burnish.models.forward import hidden_states, supports_packing
from burnish.models.fuse import fuse
from burnish.models.maps import beside
from tests.models.test_fuse import agree, bert, needs_kernels, outcome, pack
from tests.support.tiny import tiny

PARALLEL = BottleneckConfig(form="parallel", placement="both", width=4, scale=4.0)
SEQUENTIAL = BottleneckConfig(placement="both", width=4)
BEHIND_NORMS = BottleneckConfig(form="after-norm", placement="both", width=4)
PREFIX = PrefixConfig(num_virtual_tokens=5)
LORA = LoraConfig(rank=4)
DORA = LoraConfig(rank=4, dora=True)
ON_LLAMA: dict[str, list[Any]] = {
    "parallel": [PARALLEL],
    "tuned norms": [NormConfig()],
    "tuned norms, parallel": [NormConfig(), PARALLEL],
    "prefix, parallel, LoRA": [PREFIX, PARALLEL, LORA],
    "DoRA": [DORA],
    "DoRA, sequential": [DORA, SEQUENTIAL],
    "LoRA with dropout": [LORA.model_copy(update={"dropout": 0.4})],
    "DoRA with dropout, sequential": [DORA.model_copy(update={"dropout": 0.4}), SEQUENTIAL],
}
ON_BERT: dict[str, list[Any]] = {
    "parallel": [PARALLEL],
    "after-norm": [BEHIND_NORMS],
    "after-norm, tuned norms": [BEHIND_NORMS, NormConfig()],
    "tuned norms, after-norm": [NormConfig(), BEHIND_NORMS],
    "parallel, LoRA": [PARALLEL, LORA],
    "DoRA": [DORA],
    "LoRA, sequential": [LORA, SEQUENTIAL],
}


def moved(model: Any, configs: list[Any], name: str = "default") -> Attached:
    """Attach, and move every new parameter away from the identity."""
    attached = attach(model, configs, name=name)
    with torch.no_grad():
        for number, (_, parameter) in enumerate(attached.trainable()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter.add_(noise, alpha=0.1)
    return attached


def seeded(model: Any, parameters: list[Tensor]) -> list[Tensor]:
    """Values and gradients with the masks of one seed: both ways draw for the same maps in the same order."""
    torch.manual_seed(5)
    return outcome(model, parameters)


def taken(monkeypatch: pytest.MonkeyPatch, room: Any, name: str) -> list[int]:
    """Counts the calls of a fused operation."""
    calls: list[int] = []
    own = getattr(room, name)
    monkeypatch.setattr(room, name, lambda *a, **k: calls.append(1) or own(*a, **k))
    return calls


@pytest.mark.parametrize("name", ON_LLAMA)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_llama(name: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values and gradients of every adapter are those of the layers' own forward, and the fused one is what ran."""
    model = tiny("llama").train()
    supports_packing(model)
    attached = moved(model, ON_LLAMA[name])
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    parameters = [p for _, p in attached.trainable()]
    wanted = seeded(model, parameters)
    assert fuse(model, projection_of) == 2
    calls = taken(monkeypatch, fused_llama, "gate_and_project")
    agree(seeded(model, parameters), wanted)
    assert calls
    with attached.disabled():
        off = hidden_states(model, pack()).detach()
    base = tiny("llama").train()
    supports_packing(base)
    agree([off], [hidden_states(base, pack()).detach()])


@needs_kernels
@pytest.mark.parametrize("name", ON_BERT)
def test_bert(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 the fused layers' error against fp32 is at most 1.5 times that of the layers' own forward."""
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

    def made() -> tuple[Any, list[Tensor]]:
        model = bert(**rates).train()
        assert use_packed_attention(model) and supports_packing(model)
        return model, [p for _, p in moved(model, ON_BERT[name]).trainable()]

    model, parameters = made()
    exact, others = made()
    truth = seeded(exact.float(), others)
    plain = seeded(model, parameters)
    assert fuse(model, projection_of) == 2
    calls = taken(monkeypatch, fused_bert, "gelu_and_project")
    fused = seeded(model, parameters)
    assert calls

    def error(found: list[Tensor]) -> float:
        return sum(float((a.float() - b).norm() / b.norm()) for a, b in zip(found, truth, strict=True)) / len(truth)

    assert error(fused) <= 1.5 * error(plain) and error(plain) < 0.1


@needs_kernels
def test_bert_with_dropout() -> None:
    """A mask of the residual's sum is the same forward and backward: the gradient of one adapter's bias b is the slope
    of the loss, (L(b + h) - L(b - h)) / 2h, with one seed."""
    model = bert(hidden_dropout_prob=0.3, attention_probs_dropout_prob=0.0).train()
    use_packed_attention(model)
    supports_packing(model)
    attached = moved(model, [BEHIND_NORMS])
    assert fuse(model, projection_of) == 2
    name, bias = next((n, p) for n, p in attached.trainable() if n.endswith("up_bias"))

    def loss() -> Tensor:
        torch.manual_seed(3)
        hidden = hidden_states(model, pack()).float()
        return (hidden * torch.randn(hidden.shape, generator=torch.Generator().manual_seed(1))).sum()

    (found,) = torch.autograd.grad(loss(), [bias])
    direction = found / found.norm()
    with torch.no_grad():
        bias.add_(direction, alpha=0.5)
        above = loss()
        bias.sub_(direction, alpha=1.0)
        slope = float(above - loss())
    assert slope == pytest.approx(float(found.norm()), rel=0.1), name


@needs_kernels
@pytest.mark.parametrize(
    ("model", "config"), [(bert, BEHIND_NORMS), (bert, PARALLEL), (lambda: tiny("llama"), PARALLEL)]
)
def test_two_sets_follow_one_another(model: Any, config: BottleneckConfig) -> None:
    """The second set reads what the first has changed, as on the layers' own forward (in bf16 to its rounding)."""
    model = model().eval()
    use_packed_attention(model)
    supports_packing(model)
    first, _ = moved(model, [config], "first"), moved(model, [config], "second")
    with first.use("first", "second"), torch.no_grad():
        wanted = hidden_states(model, pack())
        assert fuse(model, projection_of) == 2
        found = hidden_states(model, pack())
    assert float((found - wanted).float().norm() / wanted.float().norm()) < 0.02
    with first.use("first"), torch.no_grad():
        assert float((hidden_states(model, pack()) - wanted).float().norm() / wanted.float().norm()) > 0.05


def test_what_stands_in_front_of_a_parallel_adapter_is_left_to_the_layer() -> None:
    """`y = g(sublayer(x)) + f(x)`: an output that is changed before something is added to it is no known form, while
    `g(sublayer(x) + f(x))` is; the second is what the fused layer computes."""
    model = tiny("llama")
    mlp = model.model.layers[0].mlp
    attached = attach(model, PARALLEL)
    found = beside(mlp)
    assert found is not None and len(found.parallel) == 1 and found.within("parallel")
    assert not found.within("residual", "behind")
    attached.detach_()
    handle = mlp.register_forward_hook(lambda module, args, output: output)
    assert beside(mlp) is None
    handle.remove()
    assert beside(mlp) is not None
