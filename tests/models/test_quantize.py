"""Weights of 4 bits: the codes by hand, sizes by counting, and the same base whatever a run computes in."""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from burnish.adapters.attach import attach
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models import four_bits, quantize
from burnish.models.config import ModelConfig, QuantizationConfig
from burnish.models.forward import supports_packing
from burnish.models.fuse import fuse, unfuse
from burnish.models.load import load
from burnish.models.quantize import bytes_by_part, count_parameters, is_quantized, matrix_of, quantize_, round_trip_
from tests.adapters.common import NAMES, logits, loss
from tests.models.test_fuse import agree, outcome
from tests.support.recipes import save_tiny
from tests.support.tiny import tiny, tiny_inputs, tiny_kbit

pytest.importorskip("bitsandbytes")

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""Dettmers et al. (2023), appendix E."""


def by_hand(matrix: torch.Tensor, block: int) -> torch.Tensor:
    """Each weight as the value of the table nearest to w / max|w| of its block, times that maximum."""
    blocks = matrix.double().reshape(-1, block)
    largest = blocks.abs().amax(1, keepdim=True)
    table = torch.tensor(NF4, dtype=torch.float64)
    nearest = (blocks / largest)[..., None].sub(table).abs().argmin(-1)
    return (table[nearest] * largest).reshape(matrix.shape)


@pytest.mark.parametrize("block", [32, 64, 128])
def test_codes_are_those_of_the_paper(block: int) -> None:
    """Also where a block is more than a row of 32 weights, for which the library's own unpacking is wrong."""
    model, original = tiny_kbit("llama", double=False, block_size=block), tiny("llama")
    for name, host in model.named_modules():
        if is_quantized(host):
            wanted = by_hand(original.get_submodule(name).weight, block)
            torch.testing.assert_close(matrix_of(host).double(), wanted, rtol=1e-5, atol=1e-7)


def test_the_library_agrees_where_rows_are_whole_blocks() -> None:
    """Values and input gradient of `bitsandbytes`' own product as the oracle."""
    import bitsandbytes

    host: Any = tiny_kbit("bert").get_submodule("bert.encoder.layer.0.output.dense")  # 64 inputs: one block a row
    x = torch.randn(3, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    wanted = bitsandbytes.matmul_4bit(x, host.weight, quant_state=host.weight.quant_state, bias=host.bias)
    torch.testing.assert_close(host(x), wanted, rtol=0, atol=1e-6)
    for found, expected in zip(*(torch.autograd.grad(o.sum(), x) for o in (host(x), wanted)), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_map_that_is_no_whole_number_of_blocks_is_left() -> None:
    """63 x 32 weights are 31.5 blocks of 64."""
    model = tiny("llama")
    model.model.layers[0].mlp.up_proj = nn.Linear(32, 63)
    done = quantize_(model, QuantizationConfig(), torch.float32)
    assert done["skipped"] == ["model.layers.0.mlp.up_proj"]


def test_double_quantisation_changes_constants_little() -> None:
    """8 bits for a constant: its error is below 1 % of the largest one, so that of a weight is too."""
    one, two = (tiny_kbit("llama", double=double) for double in (False, True))
    for name, host in one.named_modules():
        if is_quantized(host):
            exact, found = matrix_of(host), matrix_of(two.get_submodule(name))
            assert 0 < float((exact - found).abs().max()) < 0.01 * float(exact.abs().max())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_quantised_and_what_is_not(name: str) -> None:
    """Maps inside layers are, the head and tables are not; T5's `wo` is not, for its code reads the weight's format."""
    model = tiny_kbit(name)
    found = {n for n, m in model.named_modules() if is_quantized(m)}
    assert found and all(".0." in n or ".1." in n for n in found)
    assert not any(n.endswith(("lm_head", "decoder", "pooler.dense")) for n in found)
    left = {n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n not in found}
    assert {n.rpartition(".")[2] for n in left if ".0." in n or ".1." in n} == ({"wo"} if name == "t5" else set())
    assert not any(p.requires_grad for p in model.parameters())
    assert count_parameters(model) == count_parameters(tiny(name))


@pytest.mark.parametrize("name", NAMES)
def test_it_computes_with_the_unpacked_weights(name: str) -> None:
    """A model with W replaced by unpack(pack(W)) is the oracle; GPT-2's Conv1D keeps its matrix the other way round."""
    oracle = tiny(name)
    round_trip_(oracle, QuantizationConfig())
    inputs = tiny_inputs(name)
    assert torch.equal(logits(tiny_kbit(name), inputs), logits(oracle, inputs))
    assert not torch.equal(logits(oracle, inputs), logits(tiny(name), inputs))


def test_bytes_are_counted_by_hand() -> None:
    """Two layers of 4 x 32 x 32 + 3 x 32 x 64 weights: 4 bits each, a constant of 8 bits for 64, and per map a table of
    16 and one of 256 numbers, an offset, and one constant in fp32 for up to 256 constants."""
    weights = 2 * (4 * 32 * 32 + 3 * 32 * 64)
    parts = bytes_by_part(tiny_kbit("llama"))
    assert parts["weights"] == weights // 2
    per_map = 4 * (16 + 1 + 1)
    assert weights // 64 + 14 * per_map <= parts["constants"] <= weights // 64 + 14 * (per_map + 4 * 256)
    assert parts["rest"] == 4 * (384 * 32 + 5 * 32)  # the tied table, and five norms
    assert parts["total"] == parts["weights"] + parts["constants"] + parts["rest"]


def test_an_evaluation_leaves_the_model_as_it_was() -> None:
    """`Linear4bit` itself packs its weights anew there on some processors, and has no gradient afterwards."""
    model, inputs = tiny_kbit("llama"), tiny_inputs("llama")
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    attached = attach(model, LoraConfig(rank=4))
    first = logits(model.eval(), inputs)
    loss(model.train(), inputs).backward()
    assert attached.without_gradient() == []
    attached.detach_()
    assert torch.equal(logits(model.eval(), inputs), first)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    assert torch.equal(logits(copy.deepcopy(model), inputs), first)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_fused_layers_unpack_to_the_same(checkpointing: bool) -> None:
    """Values and gradients of the fused layers, which unpack for themselves, against those of the plain ones."""
    model = tiny_kbit("llama")
    assert supports_packing(model)
    attached = attach(model, LoraConfig(rank=4))
    parameters = [p for _, p in attached.trainable()]
    with torch.no_grad():
        for p in parameters:
            p.normal_(std=0.1, generator=torch.Generator().manual_seed(p.numel()))
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    assert fuse(model.train(), projection_of) == 2
    found = outcome(model, parameters)
    unfuse(model)
    agree(found, outcome(model, parameters))


@pytest.mark.parametrize("compute", ["bf16", "fp32"])
def test_the_format_of_the_products(compute: str) -> None:
    """Asked for, it is taken for the product and left again; the fused layers, which do not know it, stand aside."""
    model, inputs = tiny_kbit("llama", compute=compute), tiny_inputs("llama")
    assert supports_packing(model)
    same = torch.equal(logits(model, inputs), logits(tiny_kbit("llama"), inputs))
    assert same == (compute == "fp32")
    assert fuse(model) == 0


def test_the_codes_do_not_depend_on_what_a_run_computes_in(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    config = ModelConfig(path=str(folder), quantization=QuantizationConfig())
    one, two = (load(config, dtype).model for dtype in (torch.float32, torch.bfloat16))
    names = [n for n, m in one.named_modules() if is_quantized(m)]
    assert names
    for name in names:
        assert torch.equal(one.get_submodule(name).weight, two.get_submodule(name).weight)
    assert two.get_input_embeddings().weight.dtype == torch.bfloat16
    assert two.model.rotary_emb.inv_freq.dtype == torch.float32


def test_skip(tmp_path: Path) -> None:
    model: PreTrainedModel = tiny("llama")
    done = quantize_(model, QuantizationConfig(skip=("down_proj",)), torch.float32)
    assert done["modules"] == 12 and len(done["skipped"]) == 2
    assert type(model.get_submodule("model.layers.0.mlp.down_proj")) is nn.Linear
    with pytest.raises(UserError, match="matches no module") as caught:
        quantize_(tiny("llama"), QuantizationConfig(skip=("down_prj",)), torch.float32)
    assert caught.value.where == "model.quantization.skip" and "down_proj" in caught.value.fix


def test_short_form_and_faults() -> None:
    assert build(ModelConfig, {"path": "x", "quantization": "fp4"}).quantization == QuantizationConfig(kind="fp4")
    with pytest.raises(UserError, match="nf4"):
        build(ModelConfig, {"path": "x", "quantization": "nf5"})


def test_a_missing_library_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    caches: tuple[Any, ...] = (quantize._layer_class, four_bits.library)
    for cache in caches:
        cache.cache_clear()
    with pytest.raises(UserError, match="bitsandbytes, which is not installed") as caught:
        tiny_kbit("llama")
    assert "burnish[bitsandbytes]" in caught.value.fix
    for cache in caches:
        cache.cache_clear()
