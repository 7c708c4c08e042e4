"""The bridge to `peft`: the contract of every method, the library itself as the oracle, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.adapters.attach import attach
from burnish.adapters.load import load
from burnish.adapters.lora import LoraConfig
from burnish.adapters.peft_bridge import PeftBridgeConfig
from burnish.adapters.peft_methods import ON_4_BITS, UNSUITED
from burnish.adapters.registry import METHODS
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models.config import QuantizationConfig
from burnish.models.quantize import round_trip_
from burnish.train.config import RunConfig
from tests.adapters import test_contract as contract
from tests.adapters.common import logits, randomize, train_steps
from tests.support.tiny import tiny, tiny_inputs, tiny_kbit

peft = pytest.importorskip("peft")

OPTIONS: dict[str, dict[str, Any]] = {
    "VBLORA": {"vector_length": 16, "num_vectors": 8, "topk": 2, "r": 2},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 16},
}
LLAMA = ("BOFT", "C3A", "FOURIERFT", "HRA", "LN_TUNING", "LOHA", "LOKR", "OFT", "RANDLORA", "VBLORA")
OTHERS = (
    ("RANDLORA", "gpt2"),
    ("LN_TUNING", "gpt2"),
    ("LOHA", "bert"),
    ("OFT", "bert"),
    ("LOKR", "t5"),
    ("HRA", "t5"),
)
PAIRS = (*((name, "llama") for name in LLAMA), *OTHERS)
every_pair = pytest.mark.parametrize(("name", "model"), PAIRS, ids=["-".join(pair) for pair in PAIRS])


def config(name: str, **settings: Any) -> PeftBridgeConfig:
    return PeftBridgeConfig(method=f"peft:{name}", **{"options": OPTIONS.get(name, {}), **settings})


@every_pair
def test_the_contract(name: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that ``tests/adapters/test_contract.py`` asks of a method of Burnish."""

    def make(method: str, model: str) -> Any:
        made = tiny(model)
        return made, tiny_inputs(model, rows=4), attach(made, config(name), seed=3)

    monkeypatch.setattr(contract, "make", make)
    if name == "FOURIERFT":  # its gradients are sums over whole matrices, in fp32, where most of them cancels
        monkeypatch.setattr(contract, "TOLERANCE", 5e-5)
    method = f"peft:{name}"
    contract.test_starts_as_the_base_where_it_says_so(method, model)
    contract.test_trains_only_its_own_parameters_and_all_of_them(method, model)
    contract.test_what_is_saved_loads_with_equal_logits(method, model, tmp_path)
    contract.test_merges_to_equal_logits_or_refuses(method, model)
    contract.test_detaching_restores_the_base_to_the_bit_or_is_refused(method, model)
    contract.test_accumulated_gradients_equal_those_of_one_batch(method, model)
    for reentrant in (False, True):
        contract.test_activation_checkpointing_changes_no_gradient(method, model, reentrant)
    contract.test_packed_rows_give_the_gradients_of_rows_alone(method, model)
    contract.test_a_copy_of_the_model_is_independent(method, model)


@every_pair
def test_peft_reads_what_is_written(name: str, model: str, tmp_path: Path) -> None:
    """And says the same; the bridge reads what `peft` writes."""
    ours, inputs = tiny(model), tiny_inputs(model)
    attached = attach(ours, config(name))
    train_steps(ours, attached.trainable(), inputs, 2)
    attached.save(tmp_path / "ours")
    theirs = peft.PeftModel.from_pretrained(tiny(model), tmp_path / "ours").eval()
    torch.testing.assert_close(logits(theirs, inputs), logits(ours, inputs), atol=1e-6, rtol=1e-5)
    theirs.save_pretrained(tmp_path / "theirs")
    again = tiny(model)
    load(tmp_path / "theirs", again)
    torch.testing.assert_close(logits(again, inputs), logits(ours, inputs), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(set(LLAMA) & ON_4_BITS))
def test_on_4_bits_as_on_the_unpacked_weights(name: str) -> None:
    """Two updates on a base of 4 bits against two on a base with unpack(pack(W)) in the place of W."""
    pytest.importorskip("bitsandbytes")
    oracle, inputs = tiny("llama"), tiny_inputs("llama")
    round_trip_(oracle, QuantizationConfig())
    found = []
    for model in (tiny_kbit("llama"), oracle):
        train_steps(model, attach(model, config(name), seed=1).trainable(), inputs, 2)
        found.append(logits(model, inputs))
    torch.testing.assert_close(found[0], found[1], atol=1e-6, rtol=1e-5)


def test_what_reads_weights_is_refused_on_4_bits() -> None:
    pytest.importorskip("bitsandbytes")
    model = tiny_kbit("llama")
    with pytest.raises(UserError, match=r"`peft:SHIRA` reads the weights of the base, .* in 4 bits") as caught:
        attach(model, config("SHIRA"))
    assert "OFT" in caught.value.fix


def test_beside_a_native_method() -> None:
    """LoRA adds to what the layer of `peft` makes: parting them gives each back."""
    model, inputs = tiny("llama"), tiny_inputs("llama")
    attached = attach(model, [config("LOHA"), LoraConfig(rank=4)])
    randomize(attached.trainable())
    both = logits(model, inputs)
    assert not torch.allclose(both, logits(tiny("llama"), inputs), atol=1e-3)
    single = tiny("llama")
    randomize(attach(single, config("LOHA")).trainable())
    assert not torch.allclose(both, logits(single, inputs), atol=1e-3)
    attached.detach_()
    assert torch.equal(logits(model, inputs), logits(tiny("llama"), inputs))


def test_sets_are_switched_by_name() -> None:
    model, inputs = tiny("llama"), tiny_inputs("llama")
    outputs = {}
    for name, kind in (("one", "LOHA"), ("two", "OFT")):
        attached = attach(model, config(kind), name=name)
        randomize(attached.trainable())
        outputs[name] = logits(model, inputs)
    for name, wanted in outputs.items():
        with attached.use(name):
            assert torch.equal(logits(model, inputs), wanted)


def test_names_and_targets() -> None:
    with pytest.raises(UserError, match="`peft` has no method `LOHAA`") as caught:
        METHODS["peft:LOHAA"]
    assert "LOHA" in caught.value.fix
    with pytest.raises(UserError, match="one of Burnish's own methods") as caught:
        METHODS["peft:LORA"]
    assert "lora" in caught.value.fix
    for name, reason in UNSUITED.items():
        with pytest.raises(UserError) as caught:
            METHODS[f"peft:{name}"]
        assert reason in caught.value.what or "own methods" in caught.value.what
    model = tiny("llama")
    attached = attach(model, config("LOHA", targets=("q_proj", "mlp.up")))
    assert {s.name.rpartition(".")[2] for s in attached.sites} == {"q_proj", "up_proj"}
    with pytest.raises(UserError, match="matches no module"):
        attach(tiny("llama"), config("LOHA", targets="q_prj"))


def test_options() -> None:
    model = tiny("llama")
    with pytest.raises(UserError, match="has no option `rnk`"):
        attach(model, config("LOHA", options={"rnk": 4}))
    with pytest.raises(UserError, match="`target_modules` cannot be used here"):
        attach(model, config("LOHA", options={"target_modules": ["q_proj"]}))
    with pytest.raises(UserError, match="`peft:C3A` is refused by `peft`"):
        attach(model, config("C3A", options={"block_size": 7}))
    assert [n for n, _ in model.named_modules()] == [n for n, _ in tiny("llama").named_modules()]
    assert all(p.requires_grad for p in model.parameters())


def test_recipes_say_it() -> None:
    """In the union of configurations, which are told apart by their method, a family has one place."""
    values = {"model": "x", "data": {"train": "y"}}
    made = build(RunConfig, {**values, "adapter": "peft:LOHA"}).adapter
    assert made == PeftBridgeConfig(method="peft:LOHA")
    again = build(RunConfig, {**values, "adapter": {"method": "peft:OFT", "options": {"r": 4}}})
    assert build(RunConfig, again.model_dump(mode="json")) == again
    with pytest.raises(UserError, match="there is no `lroa`") as caught:
        build(RunConfig, {**values, "adapter": "lroa"})
    assert "`lora`" in caught.value.fix
    with pytest.raises(UserError, match=r"adapter\.rank"):
        build(RunConfig, {**values, "adapter": {"method": "peft:LOHA", "rank": 4}})


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="methods of the library peft need it") as caught:
        METHODS["peft:LOHA"]
    assert "burnish[peft]" in caught.value.fix


def test_a_tensor_that_is_missing(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny("llama")
    attach(model, config("LOHA")).save(tmp_path)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    again = tiny("llama")
    with pytest.raises(UserError, match="1 tensors are missing"):
        load(tmp_path, again)
    assert [n for n, _ in again.named_modules()] == [n for n, _ in tiny("llama").named_modules()]
