"""The file format of `peft`, both ways, and what is refused."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from burnish.adapters.attach import attach
from burnish.adapters.base import MethodConfig
from burnish.adapters.full import FullConfig
from burnish.adapters.load import load
from burnish.adapters.lora import LoraConfig
from burnish.core.errors import UserError
from tests.adapters.common import NAMES, logits, randomize
from tests.support.tiny import tiny, tiny_inputs

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


def saved(folder: Path, name: str = "llama", config: MethodConfig | None = None) -> PreTrainedModel:
    """A tuned model whose adapters are saved in ``folder``."""
    model = tiny(name)
    attached = attach(model, config or LoraConfig(rank=4))
    randomize(attached.trainable())
    attached.save(folder, base_path="the/base", origin={"sha256": "abc"})
    return model


def by_peft(folder: Path, name: str, **options: Any) -> Any:
    """A model that `peft` made and saved in ``folder``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(tiny(name), peft.LoraConfig(**{"r": 4, "lora_alpha": 10, **options})).eval()
        randomize([(n, p) for n, p in model.named_parameters() if p.requires_grad])
        model.save_pretrained(str(folder))
    return model


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_loads_ours(name: str, rslora: bool, tmp_path: Path) -> None:
    """`peft` warns about keys that are missing or unexpected; here a warning is an error.

    Compared in float64, where the order of the products does not show.
    """
    ours = saved(tmp_path, name, LoraConfig(rank=4, alpha=5, rslora=rslora))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        theirs: Any = peft.PeftModel.from_pretrained(tiny(name), str(tmp_path))
    inputs = tiny_inputs(name)
    torch.testing.assert_close(logits(theirs.double(), inputs), logits(ours.double(), inputs), atol=1e-10, rtol=1e-10)
    assert theirs.peft_config["default"].base_model_name_or_path == "the/base"
    kinds = {"gpt2": "CAUSAL_LM", "llama": "CAUSAL_LM", "bert": None, "t5": "SEQ_2_SEQ_LM"}
    assert theirs.peft_config["default"].task_type == kinds[name]


def test_peft_loads_our_embeddings(tmp_path: Path) -> None:
    ours = saved(tmp_path, "gpt2", LoraConfig(rank=4, targets=("wte", "c_attn")))
    theirs: Any = peft.PeftModel.from_pretrained(tiny("gpt2"), str(tmp_path))
    inputs = tiny_inputs("gpt2")
    torch.testing.assert_close(logits(theirs, inputs), logits(ours, inputs), atol=1e-6, rtol=1e-5)


OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {"target_modules": ["c_attn", "c_proj"]}),
    ("llama", {"target_modules": "all-linear"}),
    ("llama", {"target_modules": ["q_proj", "v_proj"], "use_rslora": True}),
    ("llama", {"target_modules": r".*\.self_attn\.[qk]_proj"}),
    ("llama", {"target_modules": ["q_proj"], "layers_to_transform": [1]}),
    ("llama", {"target_modules": ["q_proj", "k_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]}),
    ("llama", {"target_modules": ["q_proj"], "init_lora_weights": "gaussian", "lora_dropout": 0.1}),
    ("llama", {"target_modules": ["q_proj", "embed_tokens"]}),  # a copy of the table is saved along
    ("bert", {"target_modules": ["query", "value"]}),
    ("t5", {"target_modules": ["q", "v"], "task_type": "SEQ_2_SEQ_LM"}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_we_load_what_peft_saved(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    theirs = by_peft(tmp_path, name, **options)
    ours, inputs = tiny(name), tiny_inputs(name)
    attached = load(tmp_path, ours)
    ours.double(), theirs.double()
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-12, rtol=1e-12)
    ours.float()
    assert not torch.allclose(logits(ours, inputs), logits(tiny(name), inputs), atol=1e-3)
    # the configuration that was read, attached afresh, would sit at the same sites
    (config,) = attached.configs
    assert isinstance(config, LoraConfig)
    assert config.resolved_alpha == 10
    if "layers_to_transform" not in options and "exclude_modules" not in options:
        again = attach(tiny(name), config)
        assert [s.name for s in again.sites] == [s.name for s in attached.sites]


def test_both_ways_around(tmp_path: Path) -> None:
    """`peft` to us to `peft`: the same tensors come back, bit by bit."""
    by_peft(tmp_path / "first", "llama", target_modules=["q_proj", "down_proj"])
    load(tmp_path / "first", tiny("llama")).save(tmp_path / "second")
    first, second = (load_file(tmp_path / folder / WEIGHTS) for folder in ("first", "second"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_configuration_as_given_comes_back(tmp_path: Path) -> None:
    given = LoraConfig(rank=4, targets=("attention", "mlp.down"))
    saved(tmp_path, "llama", given)
    assert load(tmp_path, tiny("llama")).configs == (given,)
    described = json.loads((tmp_path / "burnish.json").read_text())
    assert described["base"] == {"path": "the/base", "sha256": "abc"}
    values = json.loads((tmp_path / CONFIG).read_text())
    assert values["target_modules"] == ["down_proj", "k_proj", "o_proj", "q_proj", "v_proj"]


def test_full_names_where_endings_would_say_more(tmp_path: Path) -> None:
    """`q_proj` would name both layers; BERT's `dense` would also name its head."""
    saved(tmp_path, "llama", LoraConfig(rank=4, targets="layers.1.self_attn.q_proj"))
    assert json.loads((tmp_path / CONFIG).read_text())["target_modules"] == ["model.layers.1.self_attn.q_proj"]


def drop(tensors: dict[str, Tensor]) -> None:
    del tensors[next(iter(sorted(tensors)))]


def drop_site(tensors: dict[str, Tensor]) -> None:
    for key in [k for k in tensors if ".layers.1.self_attn.k_proj." in k]:
        del tensors[key]


def add(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_C.weight"] = torch.zeros(2)


def add_base(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.model.embed_tokens.weight"] = torch.zeros(384, 32)


def add_site(tensors: dict[str, Tensor]) -> None:
    for factor in "AB":
        key = f"base_model.model.model.layers.%d.self_attn.q_proj.lora_{factor}.weight"
        tensors[key % 9] = tensors[key % 0].clone()


def add_untargeted(tensors: dict[str, Tensor]) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 32)


def widen(tensors: dict[str, Tensor]) -> None:
    key = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors[key] = torch.zeros(4, 48)


def rename(tensors: dict[str, Tensor]) -> None:
    key = sorted(tensors)[0]
    tensors[key.removeprefix("base_model.model.")] = tensors.pop(key)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (drop, "1 tensors are missing"),
        (drop_site, r"2 tensors are missing, the first is A of `model\.layers\.1\.self_attn\.k_proj`"),
        (add, "unexpected tensor .*lora_C"),
        (add_base, "unexpected tensor .*embed_tokens"),
        (add_site, r"another base: this model has no module `model\.layers\.9\.self_attn\.q_proj`"),
        (add_untargeted, "1 tensors are missing, the first is B of `lm_head`"),
        (widen, r"another base: A of `model\.layers\.0\.self_attn\.q_proj` is \(4, 48\), this model needs \(4, 32\)"),
        (rename, "does not begin with"),
    ],
)
def test_damage_is_an_error(damage: Callable[[dict[str, Tensor]], None], said: str, tmp_path: Path) -> None:
    saved(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    damage(tensors)
    save_file(tensors, tmp_path / WEIGHTS)
    refuses(tmp_path, said)


def refuses(folder: Path, said: str, name: str = "llama") -> None:
    model = tiny(name)
    names = [n for n, _ in model.named_modules()]
    with pytest.raises(UserError, match=said) as caught:
        load(folder, model)
    assert caught.value.fix
    assert str(folder) in caught.value.where
    assert [n for n, _ in model.named_modules()] == names
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("use_dora", True, "tensors are missing, the first is magnitude"),
        ("bias", "all", "bias"),
        ("modules_to_save", ["lm_head"], "modules_to_save"),
        ("rank_pattern", {"q_proj": 8}, "another base: . of"),
        ("init_lora_weights", "pissa_niter_4", "init_lora_weights"),
        ("peft_type", "LOHA", "LOHA"),
        ("r", None, "rank"),
        ("r", 8, "another base"),
    ],
)
def test_what_we_do_not_read_is_refused_by_name(key: str, value: Any, said: str, tmp_path: Path) -> None:
    saved(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**values, key: value}))
    refuses(tmp_path, said)


def test_edited_scale_wins_over_our_description(tmp_path: Path) -> None:
    saved(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps({**values, "lora_alpha": 1}))
    (config,) = load(tmp_path, tiny("llama")).configs
    assert isinstance(config, LoraConfig)
    assert config.scale == 0.25


def test_other_base(tmp_path: Path) -> None:
    saved(tmp_path)
    refuses(tmp_path, "another base: this model has no module", name="gpt2")


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    refuses(tmp_path / "nowhere", "there is no adapter_config.json")
    saved(tmp_path / "a")
    (tmp_path / "a" / WEIGHTS).unlink()
    refuses(tmp_path / "a", f"there is no {WEIGHTS}")
    (tmp_path / "a" / "adapter_model.bin").write_bytes(b"")
    refuses(tmp_path / "a", "only a pickle, which is not read")
    (tmp_path / "a" / WEIGHTS).write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    refuses(tmp_path / "a", "damaged")
    (tmp_path / "a" / CONFIG).write_text("[]")
    refuses(tmp_path / "a", "not a JSON object")
    (tmp_path / "a" / CONFIG).write_text("{")
    refuses(tmp_path / "a", "cannot be read")


def test_a_whole_model_is_not_an_adapter(tmp_path: Path) -> None:
    saved(tmp_path / "ours", "llama", FullConfig())
    refuses(tmp_path / "ours", "whole model, not adapters")
    tiny("llama").save_pretrained(tmp_path / "theirs")
    refuses(tmp_path / "theirs", "whole model, not adapters")
