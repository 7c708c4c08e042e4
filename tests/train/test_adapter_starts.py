"""Starts of LoRA that look at training rows: what they find, that they repeat, and that nothing else is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from burnish.adapters.load import load
from burnish.adapters.lora_data import dealt
from burnish.adapters.lora_layers import LoraAdapter, matrix_of
from burnish.core.events import Stepped, Stop
from burnish.train.run import resume_run, start_run
from burnish.train.setup import Setup, set_up
from burnish.train.verify import verify_run
from tests.adapters.common import logits
from tests.support.recipes import configured
from tests.support.tiny import tiny, tiny_inputs


def made(folder: Path, adapter: dict[str, Any], **sections: Any) -> Setup:
    return set_up(configured(folder, adapter={"method": "lora", "rank": 4, **adapter}, **sections))


def adapters(setup: Setup) -> dict[str, LoraAdapter]:
    return {p.site.name: p.adapter for p in setup.attached.placed if isinstance(p.adapter, LoraAdapter)}


def alone(setup: Setup, row: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels of one row without padding, [1, T]; labels are those of the next token already."""
    batch = setup.updates.collate([row])
    length = int(setup.prepared.train.lengths[row])
    return batch["input_ids"][:, :length], batch["labels"][:, :length]


@pytest.mark.parametrize("start", ["eva", "lora_ga"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_starts_as_the_base_and_repeats(start: str, layout: str, tmp_path: Path) -> None:
    setup = made(tmp_path, {"init": start}, batches={"layout": layout})
    inputs = tiny_inputs("llama")
    assert torch.equal(logits(setup.loaded.model.eval(), inputs), logits(tiny("llama"), inputs))
    again = made(tmp_path, {"init": start}, batches={"layout": layout})
    for (name, one), (_, other) in zip(setup.trainable, again.trainable, strict=True):
        assert torch.equal(one, other), name
        assert one.grad is None
    assert not any(p.requires_grad for n, p in setup.loaded.model.named_parameters() if "burnish_adapters" not in n)
    assert not any(len(m._forward_pre_hooks) for m in setup.loaded.model.modules())


@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_eva_finds_the_main_directions_of_the_inputs(layout: str, tmp_path: Path) -> None:
    """One micro-batch of all rows: the rows of A span what the largest singular vectors of X span, padding left out.

    The first layer's inputs do not depend on the layout; directions are equal up to their sign.
    """
    options = {"init": "eva", "init_options": {"batches": 1}, "targets": "layers.0.self_attn.q_proj"}
    setup = made(tmp_path, options, batches={"layout": layout}, train={"gradient_accumulation_steps": 1})
    (adapter,) = adapters(setup).values()
    model = tiny("llama")
    seen: list[Tensor] = []
    host = model.get_submodule("model.layers.0.self_attn.q_proj")
    host.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].detach()))
    with torch.no_grad():
        for row in setup.updates.rows(0):
            model(input_ids=alone(setup, row)[0])
    _, _, Vh = torch.linalg.svd(torch.cat(seen).double(), full_matrices=False)
    cosines = (adapter.A.detach().double() @ Vh[:4].t()).abs()
    torch.testing.assert_close(cosines, torch.eye(4, dtype=torch.float64), atol=2e-3, rtol=0)
    assert not adapter.B.any()


def test_eva_deals_ranks_out(tmp_path: Path) -> None:
    setup = made(tmp_path, {"init": "eva", "init_options": {"rho": 2.0}})
    ranks = [adapter.rank for adapter in adapters(setup).values()]
    assert sum(ranks) == 4 * 14
    assert len(set(ranks)) > 1 and min(ranks) >= 1 and max(ranks) <= 8


def test_ranks_go_to_the_largest_shares() -> None:
    """Five ranks: one each, then 0.3 (a), 0.25 (b) and 0.2 (a)."""
    assert dealt({"a": [0.5, 0.3, 0.2], "b": [0.6, 0.25, 0.1]}, 5) == {"a": 3, "b": 2}


def test_lora_ga_takes_the_directions_of_the_gradient(tmp_path: Path) -> None:
    """``A0 = c V_[1..R]^T``, ``B0 = c U_[R+1..2R]`` with c = 32^(1/4) / 4, from the exact decomposition of G."""
    options = {"init": "lora_ga", "init_options": {"batches": 1}, "targets": "layers.1.mlp.up_proj"}
    setup = made(tmp_path, options, train={"gradient_accumulation_steps": 1})
    (adapter,) = adapters(setup).values()
    model = tiny("llama")
    losses = []
    for row in setup.updates.rows(0):
        ids, labels = alone(setup, row)
        losses.append(F.cross_entropy(model(input_ids=ids).logits[0], labels[0], reduction="sum"))
    sum(losses).backward()  # type: ignore[union-attr]
    G = model.get_submodule("model.layers.1.mlp.up_proj").get_parameter("weight").grad
    assert G is not None
    U, _, Vh = torch.linalg.svd(G.double())
    c = 64**0.25 / 4
    A, B = adapter.A.detach().double() / c, adapter.B.detach().double() / c
    torch.testing.assert_close((A @ Vh[:4].t()).abs(), torch.eye(4).double(), atol=5e-3, rtol=0)
    torch.testing.assert_close((B.t() @ U[:, 4:8]).abs(), torch.eye(4).double(), atol=5e-2, rtol=0)
    torch.testing.assert_close(adapter.tuned(matrix_of(tiny_host(setup))), matrix_of(tiny_host(setup)))


def tiny_host(setup: Setup) -> torch.nn.Module:
    return setup.attached.placed[0].site.host


@pytest.mark.parametrize("adapter", [{"init": "eva", "init_options": {"rho": 2.0}}, {"init": "lora_ga"}])
def test_a_run_resumes_and_is_read_back(adapter: dict[str, Any], tmp_path: Path) -> None:
    """Stopped after three updates and resumed, it ends with the tensors of one that was not; and it loads."""
    ends = []
    for name, stop in (("whole", None), ("cut", 3)):
        (tmp_path / name).mkdir()
        config = configured(tmp_path / name, adapter={"method": "lora", "rank": 4, **adapter})
        if stop:

            def halt(event: Any, at: int = stop) -> Any:
                return Stop("interrupted") if isinstance(event, Stepped) and event.step == at else None

            start_run(config, callbacks=[halt])
            resume_run(config.folder)
        else:
            start_run(config)
        assert all(check.passed for check in verify_run(config.folder))
        ends.append((config.folder / "final" / "adapter_model.safetensors").read_bytes())
        load(config.folder / "final", tiny("llama"))
    assert ends[0] == ends[1]
