"""AdamW with moments of 8 bits: refused where it cannot work, near the full one, saved and resumed exactly."""

from __future__ import annotations

import builtins
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from burnish.checkpoint.optimizer import load_state_tensors, state_tensors
from burnish.core.errors import TrainingStopped, UserError
from burnish.core.events import Stepped, Stop
from burnish.optim.config import OptimConfig
from burnish.optim.groups import build_optimizer
from burnish.train.first_update import foresee
from burnish.train.run import resume_run, start_run
from tests.support.recipes import configured

installed = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="bitsandbytes is not installed (`pip install bitsandbytes`)",
)
CONFIG = OptimConfig(learning_rate=0.01, weight_decay=0.1)


def parameters(seed: int = 0) -> list[tuple[str, nn.Parameter]]:
    """A matrix of 4,096 numbers, which is kept in 8 bits, and a vector, which is not."""
    generator = torch.Generator().manual_seed(seed)
    return [(n, nn.Parameter(torch.randn(s, generator=generator))) for n, s in (("matrix", (64, 64)), ("vector", (7,)))]


def updated(named: list[tuple[str, nn.Parameter]], optimizer: torch.optim.Optimizer, updates: range) -> None:
    for number in updates:
        generator = torch.Generator().manual_seed(100 + number)
        for _, parameter in named:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


def test_without_the_library_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "bitsandbytes":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match="is not installed") as caught:
        build_optimizer(parameters(), CONFIG, kind="adamw_8bit")
    assert "memory.optimizer=adamw" in caught.value.fix and "burnish[bitsandbytes]" in caught.value.fix


@installed
def test_without_a_gpu_there_is_nothing_to_page_from() -> None:
    with pytest.raises(UserError, match="no GPU here"):
        build_optimizer(parameters(), CONFIG, kind="paged_adamw_8bit")


@installed
def test_it_stays_near_the_full_one() -> None:
    """Ten updates: a step is at most about a learning rate long, and 8 bits blur one by some percent of it.

    The vector has fp32 moments: it differs by the order of decay and step only, 10 * rate * (rate * decay) = 1e-4.
    """
    eight, full = parameters(), parameters()
    updated(eight, build_optimizer(eight, CONFIG, kind="adamw_8bit"), range(10))
    updated(full, build_optimizer(full, CONFIG), range(10))
    far = float((full[0][1] - parameters()[0][1]).detach().abs().max())
    assert far > 0.02
    assert float((eight[0][1] - full[0][1]).detach().abs().mean()) < 0.1 * 0.01
    torch.testing.assert_close(eight[1][1], full[1][1], rtol=0, atol=1e-4)


@installed
def test_its_state_is_stored_and_put_back_to_the_bit() -> None:
    """Three updates, stored, put into a fresh optimiser, three more: the same weights as six in a row."""
    whole, first = parameters(), parameters()
    updated(whole, build_optimizer(whole, CONFIG, kind="adamw_8bit"), range(6))
    optimizer = build_optimizer(first, CONFIG, kind="adamw_8bit")
    updated(first, optimizer, range(3))
    stored = {name: tensor.clone() for name, tensor in state_tensors(optimizer, first).items()}
    assert stored["state1:matrix"].dtype == torch.uint8 and stored["state1:vector"].dtype == torch.float32
    assert stored["step!int:matrix"].item() == 3
    again = [(name, nn.Parameter(parameter.detach().clone())) for name, parameter in first]
    fresh = build_optimizer(again, CONFIG, kind="adamw_8bit")
    load_state_tensors(fresh, again, stored)
    updated(again, fresh, range(3, 6))
    for (_, one), (_, other) in zip(again, whole, strict=True):
        assert torch.equal(one, other)


@installed
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_its_first_update_is_foreseen(factor: float) -> None:
    """As AdamW's: a learning rate that is not the configured one is seen in 8 bits too."""
    for named in ([parameters()[0]], [parameters()[1]]):
        optimizer = build_optimizer(named, CONFIG, kind="adamw_8bit")
        named[0][1].grad = torch.randn_like(named[0][1])
        foreseen = foresee(optimizer, named, 0.01)
        assert foreseen is not None
        optimizer.param_groups[0]["lr"] = 0.01 * factor
        optimizer.step()
        if factor == 1.0:
            foreseen.judge()
        else:
            with pytest.raises(TrainingStopped, match="not the configured one"):
                foreseen.judge()


@installed
def test_a_run_resumes_exactly(tmp_path: Path) -> None:
    """Stopped after three of six updates and resumed: the weights of the run that was not stopped, to the bit.

    Full tuning, because the matrices of a tiny adapter are too small for 8 bits.
    """
    sections: dict[str, Any] = {"adapter": "full", "memory": {"optimizer": "adamw_8bit"}}
    whole = start_run(configured(tmp_path / "whole", **sections))

    class Enough(Exception):
        pass

    def stop(event: object) -> Stop | None:
        if isinstance(event, Stepped) and event.step == 4:
            raise Enough
        return None

    with pytest.raises(Enough):
        start_run(configured(tmp_path / "half", **sections), callbacks=[stop])
    resumed = resume_run(tmp_path / "half" / "runs" / "run")
    assert (whole.step, whole.best_step) == (resumed.step, resumed.best_step) == (6, whole.best_step)
    for one, other in zip(whole.load()[0].parameters(), resumed.load()[0].parameters(), strict=True):
        assert torch.equal(one, other)
