"""What a plan counts of scoring and answering, against the run's own passes on a tiny model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from burnish.evaluate.retention.score import listen
from burnish.forecast.fixes import fixes
from burnish.forecast.scoring import cache_bytes, cached_numbers, kind_of, view_of
from burnish.forecast.sketch import sketch_of
from burnish.forecast.trace import footprint_of, numbers_of
from burnish.plan.ledger import Ledger
from burnish.plan.memory import Overhead, memory_plan
from burnish.plan.shadow import shadow_of
from burnish.train.score import Scorer
from burnish.train.setup import set_up
from tests.support.recipes import configured

RETENTION = {"rows": 4, "max_length": 64}


def passes(folder: Path, **sections: Any) -> int:
    """The most that lives while a run scores its rows and general texts."""
    setup = set_up(configured(folder, **sections))
    scorer = Scorer(setup, []).ready()
    ledger = Ledger()
    ledger.ignore([*setup.loaded.model.parameters(), *setup.loaded.model.buffers()])
    with ledger:
        scorer.base()
        listen(scorer.view, scorer.retention.rows)
    return ledger.peak


@pytest.mark.parametrize(("model", "within"), [("llama", 0.1), ("gpt2", 0.1), ("t5", 0.16)])
def test_the_passes_are_those_of_the_real_run(tmp_path: Path, model: str, within: float) -> None:
    """The plan counts what a ledger over the run's own scoring counts, within a tenth (of an encoder-decoder's
    questions 16 %): sums in float64 and means of layers are the rest. Updates of one row are far lighter."""
    sections: dict[str, Any] = {
        "model": model,
        "train": {"batch_size": 1, "max_steps": 2},
        "evaluate": {"retention": RETENTION, "samples": 0},
    }
    found = footprint_of(sketch_of(configured(tmp_path, **sections)))
    assert found.evaluation == pytest.approx(passes(tmp_path, **sections), rel=within)


def test_general_texts_may_be_the_heaviest(tmp_path: Path) -> None:
    """They are longer than the rows of the task, and the plan grows with them."""
    none, some = (
        footprint_of(sketch_of(configured(tmp_path, evaluate={"retention": one, "samples": 0})))
        for one in ("none", {"rows": 8, "max_length": 200})
    )
    assert some.evaluation > 1.2 * none.evaluation


def test_keys_and_values_of_answers_by_hand(tmp_path: Path) -> None:
    """The tiny llama keeps a key and a value of 32 numbers in each of two layers: 128 numbers a token. Two answers of
    10 tokens behind rows of at most n: 2 (n + 10) tokens; with metrics those of all rows, as far as a pass has room."""
    config = configured(tmp_path, evaluate={"samples": 2, "generate": {"max_new_tokens": 10}})
    sketch = sketch_of(config)
    assert cached_numbers(sketch.values) == 2 * 2 * 32
    shadow = shadow_of(sketch.shapes(), config.adapters, numbers_of(sketch.precision))
    view = view_of(sketch, shadow, "packed")
    longest = int(sketch.prepared.test.lengths_of(0, 2).max()) + 10
    assert cache_bytes(sketch, view, 2) == 2 * 128 * 2 * longest
    scored = sketch.with_config(configured(tmp_path, evaluate={"metrics": ["exact_match"]}))
    longest = int(sketch.prepared.test.lengths.max()) + 4
    assert len(sketch.prepared.test) * longest < view.batch_tokens == 1024
    assert cache_bytes(scored, view, 2) == 2 * 128 * len(sketch.prepared.test) * longest
    assert cache_bytes(scored, replace(view, batch_tokens=100), 2) == 2 * 128 * 100
    without = sketch.with_config(configured(tmp_path, evaluate={"samples": 0}))
    assert cache_bytes(without, view, 2) == 0


def test_smaller_passes_are_among_what_makes_a_run_fit(tmp_path: Path) -> None:
    """Where scoring takes most, passes of a quarter of the tokens save, at the same result."""
    sketch = sketch_of(configured(tmp_path, evaluate={"retention": {"rows": 8, "max_length": 200}, "samples": 0}))
    plan = memory_plan(footprint_of(sketch), Overhead(0))
    assert plan.highest.name == "evaluate"
    found = {fix.change.words: fix for fix in fixes(sketch, plan, Overhead(0), round(plan.peak * 0.9))}
    smaller = found["evaluate.batch_tokens=256"]
    assert smaller.saved > 0 and smaller.change.same


@pytest.mark.parametrize(("model", "task", "kind"), [("bert", "classification", "encoder"), ("llama", None, "causal")])
def test_what_a_model_is_by_its_code(tmp_path: Path, model: str, task: str | None, kind: str) -> None:
    sketch = sketch_of(configured(tmp_path, model=model, **({"task": task} if task else {})))
    assert kind_of(sketch.values, sketch.shapes()) == kind
