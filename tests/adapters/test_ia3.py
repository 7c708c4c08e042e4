"""(IA)^3: arithmetic by hand, `peft` as the oracle of the format both ways, and merging."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from burnish.adapters.attach import attach
from burnish.adapters.ia3 import Ia3Config
from burnish.adapters.load import load
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.adapters.vectors import ScaledInput, ScaledOutput
from burnish.core.errors import UserError
from burnish.models.forward import supports_packing
from burnish.models.fuse import fuse
from tests.adapters.common import NAMES, logits, randomize
from tests.adapters.test_bottleneck import outcome
from tests.models.architectures import build
from tests.support.tiny import tiny, tiny_inputs

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def around_one(named: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _, parameter in named:
            parameter.copy_(1 + 0.3 * torch.randn(parameter.shape, generator=generator))


def host(conv: bool = False) -> nn.Module:
    """W = [[1, 2], [3, 4]], b = (1, -1)."""
    made: nn.Module = Conv1D(2, 2) if conv else nn.Linear(2, 2)
    weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    with torch.no_grad():
        made.get_parameter("weight").copy_(weight.t() if conv else weight)
        made.get_parameter("bias").copy_(torch.tensor([1.0, -1.0]))
    return made


@pytest.mark.parametrize("conv", [False, True])
def test_by_hand(conv: bool) -> None:
    """x = (1, 1): W x + b = (4, 6). With l = (2, 10) at the output (8, 60); at the input W (2, 10) + b = (23, 45).

    Merged, the output's l also scales the bias and the input's does not; the result is the same.
    """
    x = torch.ones(1, 2)
    factors = torch.tensor([2.0, 10.0])
    for kind, wanted in ((ScaledOutput, [[8.0, 60.0]]), (ScaledInput, [[23.0, 45.0]])):
        module, adapter = host(conv), kind(2, torch.device("cpu"))
        adapter.scale.data = factors.clone()
        args, _ = adapter.before(module, (x,), {})
        assert adapter.after(module, args, {}, module(*args)).tolist() == wanted
        adapter.merge_(module)
        assert module(x).tolist() == wanted
        assert module.get_parameter("bias").tolist() == ([2.0, -10.0] if kind is ScaledOutput else [1.0, -1.0])


def test_a_small_step_is_kept_on_a_bf16_base() -> None:
    """Numbers of bf16 are 2^-7 apart above 1, so 1.003 would be 1 there, and 4 apart at 1000: 1003 rounds to 1004."""
    adapter = ScaledOutput(1, torch.device("cpu"))
    adapter.scale.data.fill_(1.003)
    h = torch.tensor([[1000.0]], dtype=torch.bfloat16)
    assert adapter.after(nn.Identity(), (), {}, h).tolist() == [[1004.0]]


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("llama", {"attention.key": 2, "attention.value": 2, "mlp.down": 2}),
        ("gpt2", {"attention.qkv": 2, "mlp.down": 2}),
        ("bert", {"attention.key": 2, "attention.value": 2, "mlp.down": 2}),
        ("t5", {"attention.key": 6, "attention.value": 6, "mlp.down": 4}),
    ],
)
def test_automatic_sites(name: str, roles: dict[str, int]) -> None:
    """Keys and values of every attention, cross-attention too, and the end of every feed-forward, at its input."""
    attached = attach(tiny(name), Ia3Config())
    found: dict[str, int] = {}
    for item in attached.placed:
        found[item.site.role] = found.get(item.site.role, 0) + 1
        assert isinstance(item.adapter, ScaledInput) == (item.site.role == "mlp.down")
    assert found == roles


def test_paper_count() -> None:
    """Section 3.3: d_k + d_v + d_ff numbers per layer: 32 + 32 + 64 in the tiny Llama."""
    assert attach(tiny("llama"), Ia3Config()).parameters_count == 2 * (32 + 32 + 64)


@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_ours(name: str, tmp_path: Path) -> None:
    ours, inputs = tiny(name), tiny_inputs(name)
    attached = attach(ours, Ia3Config())
    around_one(attached.trainable())
    attached.save(tmp_path, base_path="the/base")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs: Any = peft.PeftModel.from_pretrained(tiny(name), str(tmp_path))
    torch.testing.assert_close(logits(theirs.double(), inputs), logits(ours.double(), inputs), atol=1e-10, rtol=1e-10)
    assert not torch.allclose(logits(ours.float(), inputs), logits(tiny(name), inputs), atol=1e-3)
    again = tiny(name)
    assert load(tmp_path, again).configs == attached.configs
    assert torch.equal(logits(again, inputs), logits(ours, inputs))


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("llama", {}),
    ("bert", {}),
    ("t5", {"task_type": "SEQ_2_SEQ_LM"}),
    ("llama", {"target_modules": ["q_proj", "up_proj"], "feedforward_modules": ["up_proj"]}),
    ("llama", {"target_modules": r".*\.[kv]_proj", "feedforward_modules": []}),
    (
        "llama",
        {"target_modules": ["v_proj"], "feedforward_modules": [], "exclude_modules": ["layers.0.self_attn.v_proj"]},
    ),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_we_load_what_peft_saved(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Its defaults for each architecture, and targets of other kinds, which are attached afresh at the same sites."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs: Any = peft.get_peft_model(tiny(name), peft.IA3Config(**options)).eval()
        around_one([(n, p) for n, p in theirs.named_parameters() if p.requires_grad])
        theirs.save_pretrained(str(tmp_path))
    ours, inputs = tiny(name), tiny_inputs(name)
    attached = load(tmp_path, ours)
    torch.testing.assert_close(logits(ours.double(), inputs), logits(theirs.double(), inputs), atol=1e-12, rtol=1e-12)
    if "exclude_modules" not in options:
        again = attach(tiny(name), attached.configs)
        assert [(i.site.name, type(i.adapter)) for i in again.placed] == [
            (i.site.name, type(i.adapter)) for i in attached.placed
        ]


def test_merged_as_peft_merges(tmp_path: Path) -> None:
    ours = tiny("gpt2")
    attached = attach(ours, Ia3Config())
    around_one(attached.trainable())
    attached.save(tmp_path)
    theirs: Any = peft.PeftModel.from_pretrained(tiny("gpt2"), str(tmp_path)).merge_and_unload()
    attached.merge_()
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter), name


def damaged(folder: Path, change: Any) -> str:
    attached = attach(tiny("llama"), Ia3Config())
    attached.save(folder)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(UserError) as caught:
        load(folder, tiny("llama"))
    assert caught.value.fix
    return caught.value.what


KEY = "base_model.model.model.layers.0.self_attn.k_proj.ia3_l"


def test_damage_is_an_error(tmp_path: Path) -> None:
    assert "1 tensors are missing" in damaged(tmp_path / "a", lambda t: t.pop(KEY))
    assert "(31, 1)" in damaged(tmp_path / "b", lambda t: t.update({KEY: torch.ones(31, 1)}))
    assert "unexpected tensor" in damaged(tmp_path / "c", lambda t: t.update({KEY + "x": torch.ones(31, 1)}))


def test_modules_to_save_are_refused(tmp_path: Path) -> None:
    attach(tiny("llama"), Ia3Config()).save(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**values, "modules_to_save": ["lm_head"]}))
    with pytest.raises(UserError, match="modules_to_save"):
        load(tmp_path, tiny("llama"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"targets": "kproj"}, "matches no module"),
        ({"targets": "embed_tokens"}, "is a Embedding"),
        ({"feedforward": "q_proj"}, "matches no module"),
    ],
)
def test_refusals(options: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        attach(tiny("llama"), Ia3Config(**options))
    assert caught.value.fix


def test_unknown_architecture() -> None:
    model = build("llama")
    model.config.__class__ = type("OddConfig", (type(model.config),), {"model_type": "odd"})
    with pytest.raises(UserError, match="keys and values are not known"):
        attach(model, Ia3Config())
    assert len(attach(model, Ia3Config(targets=("k_proj", "down_proj"), feedforward="down_proj")).sites) == 4


@pytest.mark.parametrize("with_lora", [False, True])
def test_fused_layers_scale(with_lora: bool) -> None:
    """Ahead of and behind the products of a fused layer, with the gradients of the plain way, beside a LoRA too."""
    model: Any = tiny("llama").train()
    supports_packing(model)
    attached = attach(model, [*([LoraConfig(rank=4)] if with_lora else []), Ia3Config()])
    randomize([(n, p) for n, p in attached.trainable() if p.dim() == 2])
    around_one([(n, p) for n, p in attached.trainable() if p.dim() == 1])
    parameters: list[Any] = [p for _, p in attached.trainable()]
    wanted = outcome(model, parameters)
    assert fuse(model, projection_of) == 2
    for found, expected in zip(outcome(model, parameters), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_vector_ahead_of_a_shared_norm() -> None:
    """The input of `up_proj` is the norm's output, which `gate_proj` reads too, unscaled: the norm is kept then."""
    model: Any = tiny("llama").train()
    supports_packing(model)
    attached = attach(model, Ia3Config(targets="up_proj", feedforward="up_proj"))
    randomize(attached.trainable())
    parameters: list[Tensor] = [p for _, p in attached.trainable()]
    wanted = outcome(model, parameters)
    assert fuse(model, projection_of) == 2
    for found, expected in zip(outcome(model, parameters), wanted, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
