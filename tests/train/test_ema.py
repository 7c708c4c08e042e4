"""The average of the weights, by hand; what is handed over of it; and that a resumed run ends with the same one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from burnish.checkpoint.config import EmaConfig
from burnish.checkpoint.store import CheckpointStore
from burnish.core.errors import UserError
from burnish.core.events import Event, Stepped, Stop
from burnish.train.ema import Ema, averaged
from burnish.train.handover import load_handed_over
from burnish.train.run import resume_run, start_run
from burnish.train.verify import verify_run
from tests.support.recipes import configured


def test_by_hand() -> None:
    """From 0 with decay 3/4, the weight at 4, 4 and 8: a = 1, then 3/4 + 1 = 1.75, then 1.3125 + 2 = 3.3125. Counted
    every second update only the second one is: a = 1, and 1 at the third."""
    weight = nn.Parameter(torch.zeros(1))
    each = Ema(EmaConfig(decay=0.75), [("w", weight)])
    second = Ema(EmaConfig(decay=0.75, every=2), [("w", weight)])
    for step, value in enumerate((4.0, 4.0, 8.0), 1):
        with torch.no_grad():
            weight.fill_(value)
        each.observe(step)
        second.observe(step)
    assert each.averages["w"].item() == 3.3125 and second.averages["w"].item() == 1.0
    with each.in_place():
        assert weight.item() == 3.3125
    assert weight.item() == 8.0


def test_the_average_is_handed_over_and_verified(tmp_path: Path) -> None:
    """Six updates with decay 1/2, all checkpoints kept: the average in the last one is the sum over updates of
    w_t / 2^(7 - t), and w_0 / 2^6 for the start, in float64."""
    settings = {"every_steps": 1, "keep": 9, "ema": {"decay": 0.5}}
    config = configured(tmp_path, checkpoint=settings, evaluate={"every_steps": 1})
    result = start_run(config)
    store = CheckpointStore(result.folder / "checkpoints")
    states = [store.load(step).tensors for step in range(1, 7)]
    name = next(n for n in states[0]["trainable"] if n.endswith(".B"))  # zero at the start
    by_hand = sum(t["trainable"][name].double() / 2 ** (7 - step) for step, t in enumerate(states, 1))
    torch.testing.assert_close(averaged(states[-1])[name].double(), by_hand, rtol=1e-6, atol=1e-9)
    assert result.best_step is not None
    best = averaged(store.load(result.best_step).tensors)
    handed = dict(load_handed_over(result.folder).model.named_parameters())
    assert all(torch.equal(tensor, handed[name]) for name, tensor in best.items())
    assert all(check.passed for check in verify_run(result.folder))


def test_a_run_resumes_with_its_average(tmp_path: Path) -> None:
    """Stopped after four of six updates and resumed, weights and averages are those of a run that was not stopped."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    ema = {"ema": {"decay": 0.8, "hand_over": False}}
    whole = start_run(configured(tmp_path / "a", checkpoint=ema))

    def stop(event: Event) -> Stop | None:
        return Stop("interrupted") if isinstance(event, Stepped) and event.step == 4 else None

    halted = start_run(configured(tmp_path / "b", checkpoint=ema), callbacks=[stop])
    assert halted.step == 4 and not halted.tuned
    resumed = resume_run(halted.folder)
    groups = [CheckpointStore(r.folder / "checkpoints").load(6).tensors for r in (whole, resumed)]
    assert groups[0]["buffers"].keys() == groups[1]["buffers"].keys()
    for group in ("trainable", "buffers"):
        assert all(torch.equal(t, groups[1][group][n]) for n, t in groups[0][group].items())
    handed = dict(load_handed_over(whole.folder).model.named_parameters())
    best = CheckpointStore(whole.folder / "checkpoints").load(whole.best_step or 0).tensors["trainable"]
    assert all(torch.equal(t, handed[n]) for n, t in best.items())  # hand_over: false


def test_pruned_weights_are_not_averaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="adalora"):
        configured(tmp_path, adapter={"method": "adalora"}, checkpoint={"ema": {"decay": 0.9}})
