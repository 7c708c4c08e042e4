"""Sets of adapters on one model: names, switching, hybrids, and their end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from burnish.adapters.attach import attach, install
from burnish.adapters.base import Adapter, NotMergeable, Parts, Placed
from burnish.adapters.full import FullConfig
from burnish.adapters.load import load
from burnish.adapters.lora import LoraConfig
from burnish.core.errors import UserError
from burnish.models.anatomy import select
from tests.adapters.common import logits, loss, randomize, train_steps
from tests.support.tiny import tiny, tiny_inputs

INPUTS = tiny_inputs("llama")
LORA = LoraConfig(rank=4)


def test_two_sets_switch_by_name() -> None:
    """The newest set is in use; `use` chooses any, both add up in order, and leaving it restores what was."""
    alone = []
    for seed in (1, 2):
        model = tiny("llama")
        randomize(attach(model, LORA).trainable(), seed)
        alone.append(logits(model, INPUTS))
    model = tiny("llama")
    first = attach(model, LORA, name="first")
    randomize(first.trainable(), 1)
    second = attach(model, LORA, name="second")
    randomize(second.trainable(), 2)
    assert torch.equal(logits(model, INPUTS), alone[1])
    with second.use("first"):
        assert torch.equal(logits(model, INPUTS), alone[0])
        with first.disabled():
            assert torch.equal(logits(model, INPUTS), logits(tiny("llama"), INPUTS))
        assert torch.equal(logits(model, INPUTS), alone[0])
    with first.use("first", "second"):
        both = logits(model, INPUTS)
    assert torch.equal(logits(model, INPUTS), alone[1])
    assert not any(torch.allclose(both, one, atol=1e-3) for one in alone)


def test_only_the_newest_set_is_trained_and_the_older_one_returns() -> None:
    model = tiny("llama")
    first, second = attach(model, LORA, name="first"), attach(model, LORA, name="second")
    assert all(p.requires_grad for _, p in second.trainable())
    assert not any(p.requires_grad for _, p in first.trainable())
    second.detach_()
    assert all(p.requires_grad for _, p in first.trainable())
    first.detach_()
    assert all(p.requires_grad for p in model.parameters())


def test_flags_of_the_base_come_back_as_they_were() -> None:
    model = tiny("llama")
    model.get_input_embeddings().requires_grad_(False)
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    attach(model, LORA).detach_()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before
    attach(model, LORA).merge_()
    assert {n: p.requires_grad for n, p in model.named_parameters()} == before


def test_attaching_twice_under_one_name_is_refused() -> None:
    model = tiny("llama")
    attach(model, LORA)
    with pytest.raises(UserError, match="`default` are attached already"):
        attach(model, LORA)


@pytest.mark.parametrize("name", ["", "a.b", "train", "a b", "switch", "forward"])
def test_names_that_cannot_be(name: str) -> None:
    with pytest.raises(UserError, match="cannot name adapters"):
        attach(tiny("llama"), LORA, name=name)


def test_unknown_set() -> None:
    attached = attach(tiny("llama"), LORA, name="french")
    with pytest.raises(UserError, match="no adapters `frnch`") as caught, attached.use("frnch"):
        pass
    assert "french" in caught.value.fix


def test_a_set_that_was_taken_off_says_so() -> None:
    attached = attach(tiny("llama"), LORA)
    attached.detach_()
    for late in (attached.detach_, attached.merge_, lambda: attached.save(Path("nowhere"))):
        with pytest.raises(UserError, match="no longer attached"):
            late()


def test_two_adapters_of_one_method_at_one_site() -> None:
    with pytest.raises(UserError, match=r"two `lora` adapters would sit at `model\.layers\.0\.self_attn\.q_proj`"):
        attach(tiny("llama"), [LoraConfig(rank=4, targets="attention"), LoraConfig(rank=2, targets="q_proj")])


def test_nothing_to_train() -> None:
    with pytest.raises(UserError, match="nothing would be trained"):
        attach(tiny("llama"), [])


def test_hybrid_trains_saves_and_loads(tmp_path: Path) -> None:
    """LoRA on attention and the model's own norms: one set, saved in Burnish's format, equal when loaded."""
    configs = [LoraConfig(rank=4, targets="attention"), FullConfig(targets="re:norm")]
    model = tiny("llama")
    attached = attach(model, configs)
    names = {n for n, _ in attached.trainable()}
    assert len(names) == 2 * 8 + 5
    assert "model.norm.weight" in names
    assert attached.learning_rate[0] == 2e-5
    train_steps(model, attached.trainable(), INPUTS, 2)
    attached.save(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"burnish.json", "adapter.safetensors"}

    again = tiny("llama")
    assert load(tmp_path, again, name="other").configs == tuple(configs)
    assert torch.equal(logits(again, INPUTS), logits(model, INPUTS))

    tensors = load_file(tmp_path / "adapter.safetensors")
    for change, said in (
        ({k: v for k, v in tensors.items() if k != "model.norm.weight"}, "missing, the first is `model.norm.weight`"),
        ({**tensors, "x": torch.zeros(1)}, "unexpected, the first is `x`"),
        ({**tensors, "model.norm.weight": torch.zeros(3)}, "another base"),
    ):
        save_file(change, tmp_path / "adapter.safetensors")
        fresh = tiny("llama")
        with pytest.raises(UserError, match=said):
            load(tmp_path, fresh)
        assert torch.equal(logits(fresh, INPUTS), logits(tiny("llama"), INPUTS))
        assert all(p.requires_grad for p in fresh.parameters())


def test_trained_base_and_other_sets_do_not_meet() -> None:
    for configs in ((FullConfig(), LORA), (LORA, FullConfig())):
        model = tiny("llama")
        attach(model, configs[0], name="first")
        with pytest.raises(UserError, match="cannot share the model"):
            attach(model, configs[1], name="second")


def test_dead_parameters_are_named() -> None:
    """T5's encoder reads its own embedding module, so LoRA on `shared`, which nothing calls, gets no gradient."""
    model = tiny("t5")
    attached = attach(model, LoraConfig(rank=4, targets=("shared", "SelfAttention.q")))
    loss(model, tiny_inputs("t5")).backward()
    assert attached.without_gradient() == [f"shared.burnish_adapters.default.lora.{f}" for f in "AB"]


def test_description() -> None:
    """32 x 32 at rank 4 is 4 * 64 = 256 parameters, at 2 layers 512; the base has 32,928."""
    described = attach(tiny("llama"), LoraConfig(rank=4, targets="q_proj")).describe()
    assert (described["trainable"], described["parameters"]) == (512, 32928)
    assert described["trainable_share"] == pytest.approx(512 / 32928)
    assert described["sites"][1] == {
        "name": "model.layers.1.self_attn.q_proj",
        "role": "attention.query",
        "layer": 1,
        "parameters": 256,
    }
    whole = attach(tiny("gpt2"), FullConfig()).describe()
    assert whole["trainable"] == whole["parameters"]
    # embeddings 384 and 128 rows of 32; a Conv1D from 32 to 96 with bias
    assert {s["name"]: s["parameters"] for s in whole["sites"]}["transformer.h.0.attn.c_attn"] == 32 * 96 + 96


class Doubling(Adapter):
    """Doubles what goes in, through its one parameter, and adds its name's trace behind."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return (args[0] * self.factor, *args[1:]), kwargs


def test_both_edges_and_no_closed_form() -> None:
    """An adapter before its host: W (2 x) - and merging it is refused with nothing changed."""
    model = tiny("llama")
    (site, *_) = select(model, "layers.0.self_attn.q_proj")
    host, x = site.host, torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    wanted = host(2 * x)
    attached = install(model, (LORA,), (Parts(placed=(Placed(site, Doubling()),)),), "default")
    torch.testing.assert_close(host(x), wanted)
    with pytest.raises(NotMergeable, match="Doubling has no closed form"):
        attached.merge_()
    torch.testing.assert_close(host(x), wanted)
    attached.detach_()
    torch.testing.assert_close(host(2 * x), wanted)


def test_switching_is_one_assignment() -> None:
    """The hosts share one switch, so its cost does not grow with the number of adapters."""
    model = tiny("llama")
    attached = attach(model, LORA)
    switches = {id(m.switch) for m in model.modules() if type(m).__name__ == "Slot"}
    assert len(switches) == 1
    assert len(attached.sites) == 14


def test_new_adapters_follow_the_mode_of_their_host() -> None:
    model = tiny("llama").train()
    attached = attach(model, LoraConfig(rank=4, dropout=0.5))
    assert all(item.adapter.training for item in attached.placed)
    model.eval()
    assert not any(item.adapter.training for item in attached.placed)
