"""What a plan counts of regularizers, replayed rows, retention and checkpoints, against the run itself."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from burnish.core.config import build
from burnish.evaluate.run import Evaluation, compare
from burnish.forecast import timing
from burnish.forecast.held import more_batches
from burnish.forecast.sketch import Sketch, sketch_of
from burnish.forecast.timing import calibrate, evaluations_of, saves_of
from burnish.forecast.trace import footprint_of
from burnish.plan.ledger import Ledger
from burnish.plan.memory import Overhead, memory_plan
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.loop import backward, count_units, to_device
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import set_up
from tests.support.recipes import LABELS, recipe

# of the tiny llama: two layers with four square maps of attention and three of the inner width 64
MAPS = 2 * (4 * 32 * 32 + 3 * 32 * 64)
SIDES = 2 * (4 * (32 + 32) + 3 * (32 + 64))


def config_of(folder: Path, **sections: Any) -> RunConfig:
    return build(RunConfig, recipe(folder, **sections))


def sketch(folder: Path, **sections: Any) -> Sketch:
    return sketch_of(config_of(folder, **sections))


@pytest.mark.parametrize(
    ("adapter", "regularizer", "held"),
    [
        ({"method": "lora"}, {"kind": "l2_sp"}, 0),
        ({"method": "full"}, {"kind": "l2_sp"}, 4 * 32_928),
        ({"method": "lora"}, {"kind": "ewc", "fisher": "factored"}, 4 * SIDES),
        ({"method": "lora"}, {"kind": "ewc"}, 4 * MAPS),
        ({"method": "full"}, {"kind": "ewc"}, 8 * 32_928),
        ({"method": "lora"}, {"kind": "distill", "on": "task"}, 0),
    ],
)
def test_what_is_held_of_the_original_by_hand(
    tmp_path: Path, adapter: dict[str, Any], regularizer: dict[str, Any], held: int
) -> None:
    """L2-SP copies every trained number that is in no low-rank update, 4 bytes each; EWC has a number besides for each
    weight of what it weighs, or one for each row and column; a teacher that is the same model takes nothing."""
    found = footprint_of(sketch(tmp_path, adapter=adapter, regularizers=[regularizer]))
    assert found.held == held
    plan = memory_plan(found, Overhead(0))
    assert all(phase.parts.get("held of the original", 0) == held for phase in plan.phases if phase.name != "load")


def test_a_teacher_is_a_copy_where_the_base_is_trained(tmp_path: Path) -> None:
    """With full tuning it takes what the weights take; from a cache nothing."""
    full = {"method": "full"}
    found = footprint_of(sketch(tmp_path, adapter=full, regularizers=[{"kind": "distill", "on": "task"}]))
    assert found.held == found.weights > 4 * 32_000
    cached = {"kind": "distill", "on": "task", "cache": str(tmp_path / "cache")}
    assert footprint_of(sketch(tmp_path, adapter=full, regularizers=[cached])).held == 0


@pytest.mark.parametrize(
    ("sections", "within"),
    [
        ({"regularizers": [{"kind": "distill", "on": "task", "positions": "all"}]}, 0.02),
        ({"regularizers": [{"kind": "distill", "on": "both", "rows": 4, "max_length": 64}]}, 0.02),
        ({"data": {"replay": {"ratio": 0.5}}}, 0.04),
    ],
    ids=["distill", "general", "replay"],
)
def test_the_pass_is_that_of_the_real_run(tmp_path: Path, sections: dict[str, Any], within: float) -> None:
    """A ledger over the run's own micro-batches, those of the task, general and replayed ones, counts what the plan
    counts, within 2 %, with replayed rows 4 %: the heaviest is the one with most places, and one with more labels may
    take a little more."""
    setup = set_up(config_of(tmp_path, **sections))
    job = make_job(setup, Scorer(setup, []), RunFolder(tmp_path / "none"))
    batches = [to_device(batch, job.device) for step in range(6) for batch in (*job.updates[step], *job.further(step))]
    job.model.train()
    peaks = []
    for batch in [to_device(job.updates.heaviest(), job.device), *batches]:
        counts = count_units(job.terms, [batch])
        backward(job, batch, counts)  # gradients of an earlier micro-batch are there
        ledger = Ledger()
        ledger.ignore([*setup.loaded.model.parameters(), *setup.loaded.model.buffers()])
        ledger.ignore([p.grad for _, p in job.trainable if p.grad is not None])
        with ledger:
            backward(job, batch, counts)
        peaks.append(ledger.peak)
    found = footprint_of(sketch(tmp_path, **sections))
    if more_batches(setup.config):  # the plan counts those gradients too
        peaks = [peak + found.gradients for peak in peaks]
    assert found.activations + found.working == pytest.approx(max(peaks), rel=within)


def test_replayed_rows_may_be_the_heaviest(tmp_path: Path) -> None:
    """General texts are longer than the rows of the task, so that the plan grows with them."""
    plain, mixed = (footprint_of(sketch(tmp_path, **s)) for s in ({}, {"data": {"replay": {"ratio": 0.5}}}))
    assert mixed.activations > 1.2 * plain.activations


def test_the_time_has_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Retention before and after, and while training if it is asked for; three checkpoints of 7 updates at every 3, and
    what is handed over; reading back; every part is a time."""
    retention = {"rows": 2, "every_steps": 2}
    config = config_of(tmp_path, train={"max_steps": 7}, evaluate={"retention": retention, "samples": 1})
    found = calibrate(config, seconds=2)
    names = ["retention, before and after", "retention while training", "checkpoints", "writing what is handed over"]
    assert {*names, "scoring base and tuned", "validation", "samples", "reading back", "updates"} <= set(found.parts)
    assert all(seconds > 0 for seconds in found.parts.values())
    assert found.parts["checkpoints"] > found.parts["writing what is handed over"]  # three, with moments
    setup = set_up(config)
    assert saves_of(setup) == evaluations_of(setup) == 3
    without = calibrate(config_of(tmp_path), seconds=2)
    assert not any("retention" in name for name in without.parts)
    assert not (tmp_path / "runs").exists()


def test_the_time_counts_the_intervals_of_all_held_out_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 12 rows for testing, where 5 for validation were scored; no classes, no such intervals."""
    seen: list[int] = []

    def counted(base: Evaluation, tuned: Evaluation) -> dict[str, dict[str, float]]:
        seen.append(len(base.scores))
        return compare(base, tuned)

    monkeypatch.setattr(timing, "compare", counted)
    choices = {"choices": list(LABELS), "samples": 0}
    split = {"validation": 5, "test": 12}
    found = calibrate(config_of(tmp_path, evaluate=choices, data={"split": split}), seconds=1)
    assert seen == [12] and found.parts["intervals"] > 0
    assert "intervals" not in calibrate(config_of(tmp_path), seconds=1).parts and seen == [12]


def test_samples_are_timed_before_and_behind_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The untouched model's answers with the weights as they were, a trained one's with others; both are added up."""
    weights: list[float] = []

    def samples(self: Scorer) -> list[str]:
        weights.append(sum(float(p.detach().abs().sum()) for _, p in self.setup.trainable))
        time.sleep(0.05)
        return []

    monkeypatch.setattr(Scorer, "samples", samples)
    found = calibrate(config_of(tmp_path, evaluate={"samples": 1}), seconds=1)
    assert len(weights) == 2 and weights[0] != weights[1]
    assert found.parts["samples"] >= 0.1
