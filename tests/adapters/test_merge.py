"""Merging into a plain model folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoTokenizer

from burnish.adapters.attach import attach
from burnish.adapters.lora import LoraConfig
from burnish.adapters.merge import merge
from burnish.core.errors import UserError
from burnish.models.load import Loaded
from tests.adapters.common import NAMES, logits, randomize
from tests.support.tiny import tiny, tiny_inputs, tiny_tokenizer


def loaded(name: str, dtype: torch.dtype = torch.float32) -> Loaded:
    kind = "seq2seq" if name == "t5" else "causal"
    return Loaded(tiny(name, dtype=dtype), tiny_tokenizer(), kind, "the/base", Path())  # type: ignore[arg-type]


def saved(name: str, folder: Path, config: LoraConfig | None = None) -> torch.Tensor:
    model = tiny(name)
    attached = attach(model, config or LoraConfig(rank=4))
    randomize(attached.trainable())
    attached.save(folder)
    return logits(model, tiny_inputs(name))


@pytest.mark.parametrize("name", NAMES)
def test_merged_folder_is_a_plain_model_with_equal_logits(name: str, tmp_path: Path) -> None:
    tuned = saved(name, tmp_path / "adapter")
    base = loaded(name)
    report = merge(base, tmp_path / "adapter", tmp_path / "merged")
    again = type(base.model).from_pretrained(tmp_path / "merged").eval()
    torch.testing.assert_close(logits(again, tiny_inputs(name)), tuned, atol=1e-5, rtol=1e-4)
    assert report.difference < 1e-5 * max(1.0, report.scale)
    assert report.effect > 0.01
    assert report.dtype == "float32"
    with safe_open(tmp_path / "merged" / "model.safetensors", "pt") as file:
        assert not [key for key in file.keys() if "burnish" in key or "lora" in key]  # noqa: SIM118  # no mapping
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    assert tokenizer.chat_template == base.tokenizer.chat_template
    if name != "bert":
        assert again.get_input_embeddings().weight is again.get_output_embeddings().weight


def test_rounding_to_half_precision_is_reported(tmp_path: Path) -> None:
    saved("llama", tmp_path / "adapter")
    report = merge(loaded("llama", torch.bfloat16), tmp_path / "adapter", tmp_path / "merged")
    assert report.dtype == "bfloat16"
    assert 1e-4 * report.scale < report.difference < 0.1 * report.scale


def test_a_folder_that_is_taken_is_left_alone(tmp_path: Path) -> None:
    saved("llama", tmp_path / "adapter")
    (tmp_path / "merged").mkdir()
    merge(loaded("llama"), tmp_path / "adapter", tmp_path / "merged")  # an empty folder is free
    before = sorted(p.name for p in (tmp_path / "merged").iterdir())
    with pytest.raises(UserError, match="is taken"):
        merge(loaded("llama"), tmp_path / "adapter", tmp_path / "merged")
    assert sorted(p.name for p in (tmp_path / "merged").iterdir()) == before


def test_refusal_leaves_model_and_disk_as_they_were(tmp_path: Path) -> None:
    saved("llama", tmp_path / "adapter", LoraConfig(rank=4, targets="lm_head"))
    base = loaded("llama")
    with pytest.raises(UserError, match="shares its weight"):
        merge(base, tmp_path / "adapter", tmp_path / "merged")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter"]
    assert torch.equal(logits(base.model, tiny_inputs("llama")), logits(tiny("llama"), tiny_inputs("llama")))


def test_not_finite(tmp_path: Path) -> None:
    model = tiny("llama")
    attached = attach(model, LoraConfig(rank=4))
    with torch.no_grad():
        attached.trainable()[0][1].fill_(float("nan"))
        attached.trainable()[1][1].fill_(1.0)
    attached.save(tmp_path / "adapter")
    with pytest.raises(UserError, match="not finite"):
        merge(loaded("llama"), tmp_path / "adapter", tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
