"""Weights of 8 bits: codes by hand and by `bitsandbytes`, fused layers, adapters, a run and its merge, refusals."""

from __future__ import annotations

import copy
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.adapters.attach import attach
from burnish.adapters.bitfit import BitfitConfig
from burnish.adapters.load import load as load_adapters
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.adapters.lora_loftq import start_from_whole
from burnish.adapters.registry import METHODS
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models import quantize
from burnish.models.config import ModelConfig, QuantizationConfig
from burnish.models.fuse import fuse
from burnish.models.quantize import bits_of, bytes_by_part, is_quantized, matrix_of, round_trip_
from burnish.models.quantize_8_bits import EightBitLinear, codes_of
from burnish.train.config import RunConfig
from burnish.train.merging import merge_run
from burnish.train.run import start_run
from burnish.train.verify import verify_run
from tests.adapters.common import logits, randomize, train_steps
from tests.models.test_fuse import agree, outcome
from tests.support.recipes import configured
from tests.support.tiny import tiny, tiny_inputs, tiny_kbit


def test_codes_by_hand() -> None:
    """Rows (1, -0.5, 0.004), (0, 0, 0) and (2, -2, 0.02): steps of 1/127, none, and 2/127.

    0.5 * 127 = 63.5 rounds to the even 64, 0.004 * 127 = 0.508 to 1, 0.02 * 63.5 = 1.27 to 1.
    """
    codes, constants = codes_of(torch.tensor([[1.0, -0.5, 0.004], [0.0, 0.0, 0.0], [2.0, -2.0, 0.02]]))
    assert codes.tolist() == [[127, -64, 1], [0, 0, 0], [127, -127, 1]] and constants.tolist() == [1.0, 0.0, 2.0]


def test_codes_are_those_of_bitsandbytes() -> None:
    """But for ties, which its arithmetic may round the other way: never more than one step apart."""
    bnb = pytest.importorskip("bitsandbytes")
    matrix = torch.randn(48, 96, generator=torch.Generator().manual_seed(0))
    theirs, constants, _ = bnb.functional.int8_vectorwise_quant(matrix)
    codes, own = codes_of(matrix)
    torch.testing.assert_close(constants, own)
    assert int((codes.int() - theirs.int()).abs().max()) <= 1 and float((codes == theirs).float().mean()) > 0.999


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_a_weight_is_off_by_half_a_step_at_most(name: str) -> None:
    """``|w - c q / 127| <= c / 254`` everywhere; the outputs are those of the unpacked weights."""
    model, whole, inputs = tiny_kbit(name, kind="int8"), tiny(name), tiny_inputs(name)
    hosts = {n: m for n, m in model.named_modules() if is_quantized(m)}
    assert len(hosts) > 7 and all(bits_of(m) == 8 for m in hosts.values())
    plain = copy.deepcopy(whole)
    round_trip_(plain, QuantizationConfig(kind="int8"))
    for path, host in hosts.items():
        W = whole.get_submodule(path).get_parameter("weight")
        W = W.t() if W.shape != matrix_of(host).shape or not isinstance(whole.get_submodule(path), nn.Linear) else W
        assert bool(((W - matrix_of(host)).abs() <= W.abs().amax(1, keepdim=True) / 254 * 1.001).all())
    torch.testing.assert_close(logits(model, inputs), logits(plain, inputs), atol=1e-5, rtol=1e-5)


def test_bytes_are_counted() -> None:
    """A byte a weight, four a row: 14 maps of the tiny Llama."""
    model = tiny_kbit("llama", kind="int8")
    hosts = [m for m in model.modules() if isinstance(m, EightBitLinear)]
    found = bytes_by_part(model)
    assert found["weights"] == sum(m.weight.numel() for m in hosts) == 2 * (4 * 32 * 32 + 3 * 32 * 64)
    assert found["constants"] == sum(4 * m.out_features for m in hosts)


def test_fused_layers_compute_the_same() -> None:
    """Packs through the fused layers of Llama and through its own: values and gradients, to rounding."""
    found = []
    for fused in (False, True):
        model = tiny_kbit("llama", kind="int8")
        attached = attach(model, LoraConfig(rank=4), seed=1)
        randomize(attached.trainable(), std=0.1)
        if fused:
            assert fuse(model, projection_of) == model.config.num_hidden_layers
        found.append(outcome(model, [p for _, p in attached.trainable()]))
    agree(found[1], found[0])


@pytest.mark.parametrize("method", sorted(METHODS))
def test_native_methods_train_save_and_leave(method: str, tmp_path: Path) -> None:
    """Every method of Burnish's own trains on it, comes back from its files and leaves the base to the bit; or is
    refused because it trains or reads the weights themselves."""
    model, base, inputs = (
        tiny_kbit("llama", kind="int8"),
        tiny_kbit("llama", kind="int8"),
        tiny_inputs("llama", rows=4),
    )
    config = BitfitConfig(add_missing=True) if method == "bitfit" else METHODS[method].config(method=method)
    if METHODS[method].format == "model":
        with pytest.raises(UserError, match="in 8 bits"):
            attach(model, config)
        return
    attached = attach(model, config, seed=3)
    train_steps(model.train(), attached.trainable(), inputs, 2)
    tuned = logits(model.eval(), inputs)
    assert attached.without_gradient() == [] and not torch.equal(tuned, logits(base, inputs))
    attached.save(tmp_path / "saved")
    again = tiny_kbit("llama", kind="int8")
    load_adapters(tmp_path / "saved", again)
    assert torch.equal(logits(again, inputs), tuned)
    attached.detach_()
    assert torch.equal(logits(model, inputs), logits(base, inputs))


def test_a_run_is_read_back_and_merged(tmp_path: Path) -> None:
    """From a recipe, with a start at what was lost; the better base is taken, and the sizes are noted."""
    adapter = {"method": "lora", "rank": 4, "init": "loftq"}
    values = configured(tmp_path, adapter=adapter).model_dump(mode="json")
    model = {"path": values["model"]["path"], "quantization": "int8"}
    folder = start_run(build(RunConfig, {**values, "model": model})).folder
    assert all(check.passed for check in verify_run(folder))
    done = json.loads((folder / "model.json").read_text())["origin"]["quantization"]
    assert done["settings"]["kind"] == "int8" and done["modules"] == 14
    report = merge_run(folder, tmp_path / "merged")
    assert {found.base for found in report.bases} == {"trained", "full", "dequantized"}


def test_what_has_no_meaning_or_was_not_tried_is_refused() -> None:
    for idle in ({"block_size": 32}, {"double": False}):
        with pytest.raises(UserError, match="for codes of 4 bits"):
            build(ModelConfig, {"path": "a", "quantization": {"kind": "int8", **idle}})
    model = tiny_kbit("llama", kind="int8")
    with pytest.raises(UserError, match="packed into few bits"):
        attach(model, LoraConfig(dora=True))
    pytest.importorskip("peft")
    with pytest.raises(UserError, match="not tried on a base of 8 bits"):
        attach(model, METHODS["peft:LOHA"].config(method="peft:LOHA"))
    assert start_from_whole(attach(model, LoraConfig(rank=2)), lambda: tiny("llama")) == 0


def test_an_old_weight_goes_before_the_next_one_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 14 maps one is alive in its old form fewer each time: a model is never there twice."""
    model = tiny("llama")
    old = [weakref.ref(m.weight) for n, m in model.named_modules() if isinstance(m, nn.Linear) and "layers" in n]
    alive: list[int] = []
    own = quantize._quantised

    def counted(host: nn.Module, make: Any) -> nn.Module:
        alive.append(sum(ref() is not None for ref in old))
        return own(host, make)

    monkeypatch.setattr(quantize, "_quantised", counted)
    quantize.quantize_(model, QuantizationConfig(kind="int8"), torch.float32)
    assert alive == list(range(14, 0, -1))
