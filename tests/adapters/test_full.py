"""Full tuning: which weights, in which format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.adapters.attach import attach
from burnish.adapters.full import FullConfig
from burnish.core.errors import UserError
from tests.adapters.common import logits, train_steps
from tests.support.tiny import tiny, tiny_inputs


def trained(name: str, targets: Any) -> list[str]:
    return [n for n, _ in attach(tiny(name), FullConfig(targets=targets)).trainable()]


def test_everything() -> None:
    assert trained("llama", "all") == [n for n, _ in tiny("llama").named_parameters()]


def test_layers_by_pattern() -> None:
    assert len(trained("llama", "layers.1")) == 9
    assert all(n.startswith("model.layers.1.") for n in trained("llama", "layers.1"))
    assert trained("llama", ("model.norm", "re:input_layernorm")) == [
        "model.layers.0.input_layernorm.weight",
        "model.layers.1.input_layernorm.weight",
        "model.norm.weight",
    ]
    assert trained("bert", "re:bias$") == [n for n, _ in tiny("bert").named_parameters() if n.endswith("bias")]


def test_a_number_is_a_whole_part_of_the_name() -> None:
    """`layers.1` must not mean `layers.10`."""
    model = tiny("llama")
    model.model.layers.extend(model.model.layers[0] for _ in range(9))
    names = [n for n, _ in attach(model, FullConfig(targets="layers.1")).trainable()]
    assert len(names) == 9


def test_a_tied_head_is_found_under_its_own_name() -> None:
    assert trained("llama", "lm_head") == ["model.embed_tokens.weight"]


def test_only_the_targets_move() -> None:
    model, base = tiny("llama"), dict(tiny("llama").named_parameters())
    attached = attach(model, FullConfig(targets="layers.1.mlp"))
    train_steps(model, attached.trainable(), tiny_inputs("llama"), 1)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, base[n])}
    assert moved == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
    assert [s.role for s in attached.sites] == ["mlp.gate", "mlp.up", "mlp.down"]


@pytest.mark.parametrize(
    ("targets", "fix"), [("lmhead", "nearest: `lm_head`"), (("all", "layer.0"), "nearest: `layers`"), ("re:foo", "")]
)
def test_no_match(targets: Any, fix: str) -> None:
    with pytest.raises(UserError, match="matches no weight of this model") as caught:
        attach(tiny("llama"), FullConfig(targets=targets))
    assert fix in caught.value.fix


def test_bad_pattern() -> None:
    with pytest.raises(UserError, match="is not a pattern"):
        attach(tiny("llama"), FullConfig(targets="re:("))


def test_half_precision_is_refused() -> None:
    with pytest.raises(UserError, match="bfloat16, where small updates are rounded away"):
        attach(tiny("llama", dtype=torch.bfloat16), FullConfig())


@pytest.mark.parametrize("name", ["llama", "t5"])
def test_saved_folder_is_a_plain_model(name: str, tmp_path: Path) -> None:
    """Tied weights stay tied, and nothing of Burnish is needed to load it."""
    model, inputs = tiny(name), tiny_inputs(name)
    attached = attach(model, FullConfig())
    train_steps(model, attached.trainable(), inputs, 1)
    attached.save(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again, inputs), logits(model, inputs))
    assert again.get_input_embeddings().weight is again.get_output_embeddings().weight
