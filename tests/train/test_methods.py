"""Whole runs with methods other than LoRA: trained, handed over, read back in a fresh process, merged or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from burnish.core.errors import UserError
from burnish.core.files import read_lines
from burnish.train.config import RunConfig
from burnish.train.handover import load_handed_over
from burnish.train.merging import merge_run
from burnish.train.run import start_run
from tests.support.recipes import configured, sentiment_rows, write_rows
from tests.support.tiny import tiny


def classifying(folder: Path, **sections: Any) -> RunConfig:
    config = configured(folder, model="bert", task="classification", **sections)
    rows = [{"text": r["prompt"], "label": r["completion"].strip()} for r in sentiment_rows(60)]
    write_rows(folder / "rows.jsonl", rows)
    return config


def described(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "model.json").read_text())


@pytest.mark.parametrize(
    ("adapter", "mergeable"),
    [
        ({"method": "bottleneck", "placement": "both", "form": "parallel"}, False),
        ({"method": "ia3"}, True),
        ({"method": "bitfit"}, True),
        ({"method": "norm"}, True),
        ({"method": "head"}, True),
    ],
    ids=lambda value: value["method"] if isinstance(value, dict) else "",
)
def test_a_classification(tmp_path: Path, adapter: dict[str, Any], mergeable: bool) -> None:
    """`head` trains the new head and nothing else: 3 classes of 32 numbers, and 3 biases."""
    result = start_run(classifying(tmp_path, adapter=adapter, train={"learning_rate": 5e-3, "max_steps": 24}))
    losses = [row["loss"] for row in read_lines(result.folder / "metrics.jsonl") if row["kind"] == "train"]
    assert sum(losses[-3:]) < sum(losses[:3])
    found = described(result.folder)
    assert (found["trainable"] == 3 * 33) == (adapter["method"] == "head")
    assert found["layout"] == "packed"
    if not mergeable:
        with pytest.raises(UserError, match="an activation between its two maps"):
            merge_run(result.folder, tmp_path / "merged")
        return
    merge_run(result.folder, tmp_path / "merged")
    assert (tmp_path / "merged" / "model.safetensors").is_file()


@pytest.mark.parametrize(("method", "model"), [("bottleneck", "llama"), ("head", "gpt2"), ("ia3", "t5")])
def test_a_language_model(tmp_path: Path, method: str, model: str) -> None:
    result = start_run(configured(tmp_path, adapter={"method": method}, model=model))
    assert result.tuned["loss"] < result.base["loss"]
    loaded = load_handed_over(result.folder)
    assert not loaded.model.training
    assert described(result.folder)["fused_layers"] == (2 if model == "llama" else 0)


@pytest.mark.parametrize(
    ("targets", "part"), [("layers.1", "model.layers.1."), (["re:layers\\.0\\.mlp", "model.norm"], "model.")]
)
def test_any_layers_of_a_language_model(tmp_path: Path, targets: Any, part: str) -> None:
    """What the patterns name has moved, and what they do not is the base's to the bit, in the files handed over."""
    config = configured(tmp_path, adapter={"method": "full", "targets": targets}, train={"learning_rate": 1e-3})
    result = start_run(config)
    tuned, base = AutoModelForCausalLM.from_pretrained(result.folder / "final"), tiny("llama")
    moved = {n for n, p in base.named_parameters() if not torch.equal(p, tuned.get_parameter(n))}
    wanted = {n for n, _ in base.named_parameters() if n.startswith(part)}
    if part == "model.":
        wanted = {n for n in wanted if ".layers.0.mlp" in n or n == "model.norm.weight"}
    assert moved == wanted


def test_any_layers_of_a_classifier(tmp_path: Path) -> None:
    """The head is trained beside the chosen layer; the other layer and the embeddings stay."""
    config = classifying(
        tmp_path, adapter={"method": "full", "targets": "re:layer\\.1\\."}, train={"learning_rate": 1e-3}
    )
    result = start_run(config)
    tensors = load_file(result.folder / "final" / "model.safetensors")
    base = dict(tiny("bert").bert.named_parameters())  # type: ignore[operator]
    shared = {n: t for n, t in tensors.items() if n in base}
    assert len(shared) > 30
    assert {n for n, t in shared.items() if not torch.equal(t, base[n])} == {n for n in base if ".layer.1." in n}
    assert described(result.folder)["trainable"] == sum(p.numel() for n, p in base.items() if ".layer.1." in n) + 99
