"""AdaLoRA: hand-worked values, the allocator of `peft` as oracle, files both ways, and exact resume."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import PreTrainedModel

from burnish.adapters import training
from burnish.adapters.adalora import AdaloraAdapter, AdaloraConfig, allocate, budget_at, observe, terms
from burnish.adapters.attach import Attached, attach
from burnish.adapters.load import load
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.events import Stepped, Stop
from burnish.train.run import resume_run, start_run
from burnish.train.verify import verify_run
from tests.adapters.common import logits, loss, randomize
from tests.support.recipes import configured
from tests.support.tiny import tiny, tiny_inputs

EXACT = {"atol": 1e-10, "rtol": 1e-10}
CONFIG = AdaloraConfig(rank=6, target_rank=3, alpha=8, targets=("q_proj", "down_proj"))


def adapters(attached: Attached) -> list[AdaloraAdapter]:
    return [item.adapter for item in attached.placed if isinstance(item.adapter, AdaloraAdapter)]


def by_peft(**options: Any) -> Any:
    given = {"init_r": 6, "target_r": 3, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **options}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return peft.get_peft_model(tiny("llama"), peft.AdaLoraConfig(**{"total_step": 20, **given}))


def copied(ours: Attached, theirs: Any) -> None:
    """Our parameters into `peft`'s model."""
    with torch.no_grad():
        for item in ours.placed:
            layer = theirs.base_model.model.get_submodule(item.site.name)
            for key in "AEB":
                getattr(layer, f"lora_{key}")["default"].copy_(item.adapter.get_parameter(key))


def test_budget_by_hand() -> None:
    """10 matrices from rank 12 to 8 over 100 updates: 10 of warm-up, 30 to settle, so the way is 60 updates.

    After 40 of them half of the way is left: 80 + 40 / 8 = 85. In between nothing is pruned but every tenth update.
    """
    config = AdaloraConfig()
    found = {step: budget_at(config, 10, step, 100) for step in (10, 20, 35, 40, 70, 71)}
    assert found == {10: None, 20: int(80 + 40 * (5 / 6) ** 3), 35: None, 40: 85, 70: 80, 71: None}


def test_importance_by_hand() -> None:
    """w = 2, g = -3: I = 6. With beta 0.5: I' = 3, U' = |6 - 3| / 2 = 1.5; once more I' = 4.5, U' = 0.75 + 0.75."""
    adapter = AdaloraAdapter(nn.Linear(1, 1), 1, 1.0)
    with torch.no_grad():
        adapter.E.fill_(2.0)
    adapter.E.grad = torch.full((1, 1), -3.0)
    adapter.take_note(0.5, 0.5)
    assert adapter.get_buffer("importance_E").item() == 3.0
    assert adapter.get_buffer("uncertainty_E").item() == 1.5
    adapter.take_note(0.5, 0.5)
    assert adapter.get_buffer("importance_E").item() == 4.5
    assert adapter.scores().tolist() == [4.5 * 1.5]


def test_penalty_equals_that_of_peft() -> None:
    """`peft` adds 0.5 times the mean norm to the loss of a forward pass with labels."""
    attached, theirs = attach(tiny("llama"), CONFIG), by_peft(orth_reg_weight=0.5)
    randomize(attached.trainable(), std=0.4)
    copied(attached, theirs)
    (term,) = terms(CONFIG, attached.placed)
    inputs = tiny_inputs("llama")
    labels = inputs["input_ids"]
    plain = theirs.base_model.model(**inputs, labels=labels).loss
    penalty = (theirs.base_model(**inputs, labels=labels).loss - plain) / 0.5
    found = term.loss({}, None).total  # type: ignore[arg-type]
    torch.testing.assert_close(found, penalty, atol=1e-5, rtol=1e-5)
    assert term.weight == 0.1 and float(term.count({})) == 1.0


def test_pruning_equals_that_of_peft() -> None:
    """Sixteen updates by SGD beside `peft`'s allocator: the same importance, the same values pruned at every step.

    tinit 4, tfinal 6 and deltaT 2 of 20 updates are a warm-up of 0.2, 0.3 to settle, and a pruning every second update.
    """
    config = CONFIG.model_copy(update={"warmup": 0.2, "settle": 0.3, "prune_every_steps": 2})
    model, inputs = tiny("llama"), tiny_inputs("llama")
    attached, theirs = attach(model, config), by_peft(tinit=4, tfinal=6, deltaT=2, orth_reg_weight=0.0)
    randomize(attached.trainable(), std=0.2)
    copied(attached, theirs)
    own = [p for _, p in attached.trainable()]
    other = [p for n, p in theirs.named_parameters() if p.requires_grad]
    for step in range(1, 17):
        for network, parameters in ((model, own), (theirs, other)):
            for parameter in parameters:
                parameter.grad = None
            loss(network, inputs).div(20).backward()
            torch.optim.SGD(parameters, lr=0.01).step()
        observe(config, attached.placed, step, 20)
        theirs.base_model.update_and_allocate(step)
        for item in attached.placed:
            layer = theirs.base_model.model.get_submodule(item.site.name)
            pruned = layer.lora_E["default"] == 0
            assert torch.equal(item.adapter.get_parameter("E") == 0, pruned), (step, item.site.name)
        kept = sum(int((a.E != 0).sum()) for a in adapters(attached))
        assert step != 14 or kept == 12  # four matrices of rank 3
        assert step > 4 or kept == 24
    torch.testing.assert_close(logits(model, inputs), logits(theirs, inputs), atol=1e-3, rtol=1e-3)


def pruned(name: str = "llama", config: AdaloraConfig = CONFIG) -> tuple[PreTrainedModel, Attached]:
    """A model of whose singular values half are gone: of one matrix all, of another none."""
    model = tiny(name)
    attached = attach(model, config)
    randomize(attached.trainable(), std=0.4)
    found = adapters(attached)
    for number, adapter in enumerate(found):
        for key in "AEB":
            adapter.get_buffer(f"importance_{key}").fill_(1.0 + number)
            adapter.get_buffer(f"uncertainty_{key}").copy_(torch.rand_like(adapter.get_parameter(key)) + number)
    allocate(found, config.target_rank * len(found))
    for adapter in found:
        adapter.prune()
    return model, attached


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_saved_without_what_is_pruned_and_peft_loads_it(name: str, tmp_path: Path) -> None:
    config = CONFIG if name == "llama" else CONFIG.model_copy(update={"targets": ("c_attn", "c_fc")})
    ours, attached = pruned(name, config)
    attached.save(tmp_path)
    values = json.loads((tmp_path / "adapter_config.json").read_text())
    ranks = [sum(rows) for rows in values["rank_pattern"].values()]
    assert sum(ranks) == 12 and len(set(ranks)) > 1
    shapes = [t.shape[0] for k, t in load_file(tmp_path / "adapter_model.safetensors").items() if k.endswith("lora_E")]
    assert sorted(shapes) == sorted(ranks)
    inputs, again = tiny_inputs(name), tiny(name)
    loaded = load(tmp_path, again)
    assert loaded.configs == (config,)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message=".*zero-size.*|.*zero-element.*")
        theirs: Any = peft.PeftModel.from_pretrained(tiny(name), str(tmp_path))
    wanted = logits(ours.double(), inputs)
    torch.testing.assert_close(logits(again.double(), inputs), wanted, **EXACT)
    torch.testing.assert_close(logits(theirs.double(), inputs), wanted, atol=1e-6, rtol=1e-6)  # a rank kept in fp32
    loaded.save(tmp_path / "again")
    assert load(tmp_path / "again", tiny(name)).parameters_count == loaded.parameters_count


@pytest.mark.parametrize("cut", [False, True])
def test_we_load_what_peft_saved(cut: bool, tmp_path: Path) -> None:
    theirs, inputs = by_peft(tfinal=0, tinit=0), tiny_inputs("llama")
    randomize([(n, p) for n, p in theirs.named_parameters() if p.requires_grad], std=0.4)
    if cut:
        for step in (1, 2):
            loss(theirs, inputs).backward()
            theirs.base_model.update_and_allocate(step)
    theirs.eval().save_pretrained(str(tmp_path))
    ours = tiny("llama")
    load(tmp_path, ours)
    torch.testing.assert_close(logits(ours, inputs), logits(theirs, inputs), atol=1e-4, rtol=1e-4)


def test_resumes_to_the_bit_and_is_read_back_without_what_is_pruned(tmp_path: Path) -> None:
    """Stopped between two prunings; importance, mask and penalty are as in the run that was not stopped."""
    adapter = {"method": "adalora", "rank": 6, "target_rank": 3, "warmup": 0.0, "settle": 0.2, "prune_every_steps": 2}
    ends = []
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
        sections = {"train": {"max_steps": 12, "batch_size": 8}, "checkpoint": {"every_steps": 1, "keep": 20}}
        config = configured(tmp_path / name, adapter=adapter, evaluate={"every_steps": 12}, **sections)

        def halt(event: Any, stops: bool = name == "cut") -> Any:
            return Stop("interrupted") if stops and isinstance(event, Stepped) and event.step == 7 else None

        start_run(config, callbacks=[halt])
        if name == "cut":
            resume_run(config.folder)
        assert all(check.passed for check in verify_run(config.folder))
        last = sorted((config.folder / "checkpoints").iterdir())[-1]
        ends.append([(last / f).read_bytes() for f in ("trainable.safetensors", "buffers.safetensors")])
        ends[-1].append((config.folder / "final" / "adapter_model.safetensors").read_bytes())
    assert ends[0] == ends[1]
    kept = load_file(tmp_path / "cut" / "runs" / "run" / "final" / "adapter_model.safetensors")
    assert sum(len(t) for k, t in kept.items() if k.endswith("lora_E")) == 3 * 14


def test_buffers_are_named_as_parameters_are() -> None:
    attached = attach(tiny("llama"), CONFIG)
    names = [name for name, _ in training.buffers(attached)]
    assert len(names) == 4 * 7
    assert "model.layers.0.self_attn.q_proj.burnish_adapters.default.adalora.mask" in names


@pytest.mark.parametrize("wrong", [{"target_rank": 13}, {"warmup": 0.6, "settle": 0.6}, {"beta1": 1.0}])
def test_contradictions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        build(AdaloraConfig, wrong)


def test_embeddings_and_high_ranks_are_refused() -> None:
    with pytest.raises(UserError, match="AdaLoRA needs a linear or Conv1D layer"):
        attach(tiny("gpt2"), AdaloraConfig(targets="wte"))
    with pytest.raises(UserError, match="rank 40 is above the smaller side"):
        attach(tiny("llama"), AdaloraConfig(rank=40))
