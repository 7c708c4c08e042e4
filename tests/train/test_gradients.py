"""What a run measures of its gradients and updates, against arithmetic by hand; and that it changes nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.core.events import Measured
from burnish.core.files import read_lines
from burnish.train import run as running
from burnish.train.gradients import GradientWatch, group_of, layer_of
from burnish.train.run import start_run
from burnish.train.verify import read_back
from tests.support.recipes import configured


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The read-back in a process of its own is not what is tested here."""
    assert read_back
    monkeypatch.setattr(running, "read_back", lambda path: [])


def test_names_lie_in_layers_and_groups() -> None:
    lora = "model.layers.11.self_attn.q_proj.burnish_adapters.default.lora.A"
    assert (layer_of(lora), group_of(lora)) == ("11", "lora.A")
    assert (layer_of("encoder.layer.3.output.dense.bias"), group_of("encoder.layer.3.output.dense.bias")) == (
        "3",
        "bias",
    )
    assert layer_of("transformer.h.0.attn.weight") == "0"
    assert layer_of("model.decoder.layers.2.fc1.weight") == "decoder 2"
    assert (layer_of("classifier.weight"), group_of("classifier.weight")) == ("outside", "head")
    assert group_of("model.embed_tokens.weight") == "embedding"
    # a prompt's host is the backbone, which an encoder with a head is itself
    assert group_of("burnish_adapters.default.prompt.prompt") == "prompt.prompt"
    assert group_of("model.burnish_adapters.default.prompt.prompt") == "prompt.prompt"


def stepped(decay: float, max_norm: float | None) -> tuple[dict[str, Any], list[Any]]:
    """Three updates of AdamW on two layers, measured; and the same with the old weights kept, in float64."""
    torch.manual_seed(0)
    named = [(f"model.layers.{i}.weight", nn.Parameter(torch.randn(5, 7))) for i in range(2)]
    optimizer = torch.optim.AdamW([p for _, p in named], lr=0.01, weight_decay=decay)
    watch = GradientWatch(named, optimizer, 100)
    seen: list[Any] = []
    for _ in range(3):
        for _, p in named:
            p.grad = torch.randn_like(p)
        raw = [p.grad.double().norm().item() for _, p in named]
        norm = float(nn.utils.clip_grad_norm_([p for _, p in named], max_norm or math.inf))
        clipped = [p.grad.double().clone() for _, p in named]
        before = [p.detach().double().clone() for _, p in named]
        watch.before_update(norm, max_norm)
        optimizer.step()
        values = watch.after_update(True)
        moved = [(p.detach().double() - b).norm().item() for (_, p), b in zip(named, before, strict=True)]
        seen.append((raw, clipped, moved, [p.detach().double().norm().item() for _, p in named]))
    return values, seen


@pytest.mark.parametrize(("decay", "max_norm"), [(0.0, None), (0.3, 1.0)])
def test_norms_and_ratios_by_hand(decay: float, max_norm: float | None) -> None:
    """Norms before clipping, ``|w' - w| / |w'|`` with kept weights, and ``g . mean(g)`` of the gradients."""
    values, seen = stepped(decay, max_norm)
    raw, clipped, moved, held = seen[-1]
    assert list(values["layers"].values()) == pytest.approx(raw, rel=1e-5)
    assert values["groups"] == {"weight": pytest.approx(math.hypot(*raw), rel=1e-5)}
    expected = {str(i): moved[i] / held[i] for i in range(2)}
    assert values["layers_ratio"] == pytest.approx(expected, rel=1e-4)
    assert values["ratio"] == pytest.approx(math.hypot(*moved) / math.hypot(*held), rel=1e-4)
    # the mean of the two gradients before, as AdamW weighs them: 0.1 and 0.09 over 1 - 0.9^2
    product = square = 0.0
    for i in range(2):
        mean = (0.09 * seen[0][1][i] + 0.1 * seen[1][1][i]) / (1 - 0.9**2)
        product += float((clipped[i] * mean).sum())
        square += float((clipped[i] ** 2).sum())
    assert values["agreement"]["product"] == pytest.approx(product, rel=1e-4)
    assert values["agreement"]["square"] == pytest.approx(square, rel=1e-5)
    assert values["dead"] == 0 and values["tensors"] == 2


def test_dead_tensors_are_counted_and_named() -> None:
    named = [(f"layers.{i}.w", nn.Parameter(torch.ones(3))) for i in range(3)]
    watch = GradientWatch(named, torch.optim.AdamW([p for _, p in named]), 10)
    named[0][1].grad = torch.ones(3)
    named[1][1].grad = torch.zeros(3)
    watch.before_update(1.0, None)
    values = watch.after_update(False)
    assert values["dead"] == 2 and values["dead_names"] == ["layers.1.w", "layers.2.w"]


def losses_and_weights(folder: Path, monkeypatch: pytest.MonkeyPatch, *, watched: bool) -> tuple[Any, Any, list[Any]]:
    if not watched:
        monkeypatch.setattr(GradientWatch, "due", lambda self, step: False)
    heard: list[Any] = []
    train = {"max_steps": 6, "gradient_accumulation_steps": 2, "weight_decay": 0.1}
    result = start_run(configured(folder, train=train), callbacks=[heard.append])
    lines = [r for r in read_lines(result.folder / "metrics.jsonl") if r["kind"] == "train"]
    checkpoint = sorted((result.folder / "checkpoints").glob("step-*"))[-1]
    files = {p.name: p.read_bytes() for p in sorted(checkpoint.glob("*.safetensors"))}
    return [(r["loss"], r["grad_norm"]) for r in lines], files, [e for e in heard if isinstance(e, Measured)]


def test_measuring_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, norms, weights and moments are equal in every bit with the measurements on and off.

    With two micro-batches an update the first one is measured too: of 4 of 8 rows, about half of the
    update in trained tokens.
    """
    on = losses_and_weights(tmp_path / "on", monkeypatch, watched=True)
    off = losses_and_weights(tmp_path / "off", monkeypatch, watched=False)
    assert on[:2] == off[:2] and on[1]
    assert len(on[2]) == 6 and not off[2]
    assert all(0.2 < event.values["first"]["share"] < 0.8 for event in on[2])
    log = [r for r in read_lines(tmp_path / "on/runs/run/metrics.jsonl") if r["kind"] == "gradients"]
    assert [r["step"] for r in log] == [1, 2, 3, 4, 5, 6]
    assert log[-1]["norm"] == pytest.approx(math.hypot(*log[-1]["layers"].values()), rel=1e-4)
