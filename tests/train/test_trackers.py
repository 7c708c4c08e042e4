"""Trackers receive the run's numbers; one that is not installed is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from burnish.core.errors import UserError
from burnish.core.files import read_lines
from burnish.train import trackers
from burnish.train.run import start_run
from tests.support.recipes import configured


def test_tensorboard_gets_every_number(tmp_path: Path) -> None:
    """Six updates and two evaluations: the events hold the same losses as ``metrics.jsonl``, to fp32."""
    result = start_run(configured(tmp_path, trackers=["tensorboard"]))
    events = next(result.folder.rglob("events.out.tfevents*")).parent
    found = EventAccumulator(str(events))
    found.Reload()
    lines = read_lines(result.folder / "metrics.jsonl")
    for kind, steps in (("train", 6), ("validation", 2)):
        tag = next(t for t in found.Tags()["scalars"] if kind in t and t.endswith("loss"))
        values = [e.value for e in found.Scalars(tag)]
        assert values == pytest.approx([line["loss"] for line in lines if line["kind"] == kind], rel=1e-5)
        assert len(values) == steps


def test_none_by_default(tmp_path: Path) -> None:
    result = start_run(configured(tmp_path, train={"max_steps": 1}))
    assert not list(result.folder.rglob("events.out*"))


def test_a_missing_tracker_is_refused_before_the_data_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers, "get_available_trackers", list)
    config = configured(tmp_path, trackers=["wandb"])
    with pytest.raises(UserError, match="wandb") as caught:
        start_run(config)
    assert "pip install wandb" in caught.value.fix
    assert not config.folder.exists()
