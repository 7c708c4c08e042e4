"""What every registered regularizer keeps, on four kinds of models, with adapters and with full tuning.

A new one is found in the registry; ``common.KINDS`` holds its settings.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.adapters.attach import attach
from burnish.adapters.lora_config import LoraConfig
from burnish.checkpoint.optimizer import load_state_tensors, state_tensors
from burnish.core.errors import UserError
from burnish.regularizers.registry import REGULARIZERS
from burnish.train.job import Job
from burnish.train.loop import enter_stage, update
from burnish.train.state import TrainState
from tests.regularizers.common import KINDS, MODELS, first_update, job_of, made, shake
from tests.support.tiny import tiny

ADAPTERS: dict[str, Any] = {"lora": {"method": "lora", "rank": 4}, "full": "full"}
CASES = [(kind, model, adapter) for kind in REGULARIZERS for model in MODELS for adapter in ADAPTERS]
every_case = pytest.mark.parametrize(("kind", "model", "adapter"), [c for c in CASES if c[::2] != ("o_lora", "full")])


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """LoRA adapters of an earlier run for each model."""
    folders = {}
    for name in MODELS:
        folder = tmp_path_factory.mktemp(name)
        model = tiny(name)
        base = model.base_model if name == "bert" else model
        attach(base, LoraConfig(rank=2), seed=7).save(folder)
        folders[name] = str(folder)
    return folders


def settings(kind: str, model: str, earlier: dict[str, str]) -> list[dict[str, Any]]:
    return [{**KINDS[kind], **({"earlier": [earlier[model]]} if kind == "o_lora" else {})}]


def test_every_one_has_settings_here() -> None:
    assert KINDS.keys() == set(REGULARIZERS)


@every_case
def test_zero_at_the_start_and_not_after_it(kind: str, model: str, adapter: str, earlier: dict[str, str]) -> None:
    """Before the first update its share of the loss is 0 to 1e-6, and it pulls at nothing; then it is above 0."""
    setup = made(model, ADAPTERS[adapter], settings(kind, model, earlier))
    names = {term.name for term in setup.regularizing.terms}
    job = job_of(setup)
    parts = first_update(job)[1]
    assert names and names < parts.keys()
    if REGULARIZERS[kind].zero_at_start:
        assert all(abs(parts[name]) < 1e-6 for name in names)
    shake(setup)
    loss, parts, _ = first_update(job)
    assert all(parts[name] > 1e-6 for name in names), parts
    assert sum(parts.values()) == pytest.approx(loss, rel=1e-6)


@every_case
def test_the_gradient_does_not_depend_on_micro_batches(
    kind: str, model: str, adapter: str, earlier: dict[str, str]
) -> None:
    """8 micro-batches of a row, padded, against the default layout in one: loss and gradients to 1e-5."""
    found = []
    for sections in ({"batches": {"layout": "padded"}, "train": {"gradient_accumulation_steps": 8}}, {}):
        setup = made(model, ADAPTERS[adapter], settings(kind, model, earlier), **sections)
        job = job_of(setup)
        assert len(job.updates[0]) == (8 if sections else 1)
        shake(setup)
        found.append(first_update(job))
    (loss, _, expected), (other, _, gradient) = found
    assert other == pytest.approx(loss, rel=1e-5)
    assert gradient.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(gradient[name] / scale, value / scale, rtol=0, atol=2e-5, msg=name)


def advance(job: Job, state: TrainState, count: int) -> None:
    liveness = enter_stage(job, state, [])
    for _ in range(count):
        update(job, state, liveness)
        state.step += 1


@every_case
def test_resuming_is_exact(kind: str, model: str, adapter: str, earlier: dict[str, str]) -> None:
    """Two updates, then two more in a run that is set up anew: the weights of four in one go, to the bit."""
    section = settings(kind, model, earlier)
    whole = job_of(made(model, ADAPTERS[adapter], section))
    advance(whole, TrainState(), 4)
    first = job_of(made(model, ADAPTERS[adapter], section))
    advance(first, TrainState(), 2)
    second = job_of(made(model, ADAPTERS[adapter], section))
    with torch.no_grad():
        for (_, ours), (_, theirs) in zip(second.trainable, first.trainable, strict=True):
            ours.copy_(theirs)
    load_state_tensors(second.optimizer, second.trainable, state_tensors(first.optimizer, first.trainable))
    advance(second, TrainState(step=2), 2)
    for (name, ours), (_, theirs) in zip(second.trainable, whole.trainable, strict=True):
        assert torch.equal(ours, theirs), name


def test_orthogonality_needs_something_low_rank(earlier: dict[str, str]) -> None:
    with pytest.raises(UserError, match="trains none"):
        made("llama", "full", settings("o_lora", "llama", earlier))


def test_orthogonality_to_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no LoRA adapters here"):
        made("llama", "lora", [{"kind": "o_lora", "earlier": [str(tmp_path)]}])
