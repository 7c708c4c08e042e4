"""Whole runs with regularizers: what is logged, shown and refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.events import Event, Stepped
from burnish.core.files import read_lines
from burnish.report.curves import parts_chart
from burnish.report.read import load_run as read_run
from burnish.train.config import RunConfig, load_run
from burnish.train.liveness import Liveness
from burnish.train.loop import enter_stage, update
from burnish.train.run import resume_run, start_run
from burnish.train.setup import set_up
from burnish.train.state import TrainState
from tests.regularizers.common import first_update, job_of, made, shake
from tests.support.recipes import configured, recipe, sentiment_rows, write_rows

LORA = {"method": "lora", "rank": 4}


def steps(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_lines(folder / "metrics.jsonl") if row["kind"] == "train"]


def test_every_term_is_logged_and_drawn_and_a_resumed_run_is_the_same(tmp_path: Path) -> None:
    """Distillation on both kinds of rows beside L2-SP: shares that sum to the loss, notes, a chart; stopped after two
    of four updates and resumed, the log of one in one go. Tokens are the task's own."""
    settings: dict[str, Any] = {
        "regularizers": [{"kind": "distill", "on": "both", "rows": 2, "max_length": 16}, "l2_sp"],
        "train": {"max_steps": 4},
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()

    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)

    whole = start_run(configured(tmp_path / "a", **settings))
    stopped = start_run(configured(tmp_path / "b", **settings), callbacks=[stop])
    assert stopped.reason == "interrupted"
    resumed = resume_run(stopped.folder)
    logs = [[{k: v for k, v in r.items() if "second" not in k} for r in steps(x.folder)] for x in (whole, resumed)]
    assert logs[0] == logs[1]
    plain = start_run(configured(tmp_path, train={"max_steps": 4}))
    for row, other in zip(logs[0], steps(plain.folder), strict=True):
        parts = {name: value for name, value in row.items() if name.startswith("loss.")}
        assert parts.keys() == {"loss.sft", "loss.distill", "loss.distill_general", "loss.l2_sp"}
        assert sum(parts.values()) == pytest.approx(row["loss"], rel=1e-6)
        assert row["tokens"] == other["tokens"] and row["trained_tokens"] == other["trained_tokens"]
        assert not any(name.startswith("loss.") for name in other)
    assert logs[0][0]["loss.distill"] == 0.0 and logs[0][-1]["loss.distill"] > 0
    codes = {row["code"]: row["what"] for row in read_lines(whole.folder / "findings.jsonl")}
    assert "no memory" in codes["regularizers.distill"] and "no copy" in codes["regularizers.l2-sp"]
    chart, absent = (parts_chart(read_run(run.folder)) for run in (whole, plain))
    assert chart is not None and absent is None
    assert [series.name for series in chart.series] == ["sft", "distill", "distill general", "l2 sp"]


def test_a_cache_gives_what_a_second_model_gives(tmp_path: Path) -> None:
    """With all but one of 384 tokens kept, K + 1 outcomes are the whole distribution: same loss, same gradients.

    Fewer give a lower bound; the second run reads what the first one wrote; other settings are refused.
    """
    found = []
    for entry in ({}, {"cache": str(tmp_path / "cache"), "top_k": 383}):
        setup = made("llama", "full", [{"kind": "distill", "on": "task", **entry}])
        job = job_of(setup)
        shake(setup)
        found.append(first_update(job))
    (loss, parts, gradients), (other, cached, theirs) = found
    assert other == pytest.approx(loss, rel=1e-5) and cached == pytest.approx(parts, rel=1e-4)
    for name, gradient in gradients.items():
        scale = float(gradient.abs().max())
        torch.testing.assert_close(theirs[name] / scale, gradient / scale, rtol=0, atol=1e-4)
    written = (tmp_path / "cache" / "ids.npy").stat().st_mtime_ns
    again = made("llama", LORA, [{"kind": "distill", "on": "task", "cache": str(tmp_path / "cache"), "top_k": 383}])
    assert (tmp_path / "cache" / "ids.npy").stat().st_mtime_ns == written and again.regularizing.terms
    with pytest.raises(UserError, match="another top_k"):
        made("llama", LORA, [{"kind": "distill", "on": "task", "cache": str(tmp_path / "cache"), "top_k": 8}])
    few = made("llama", "full", [{"kind": "distill", "on": "task", "cache": str(tmp_path / "few"), "top_k": 4}])
    job = job_of(few)
    shake(few)
    assert 0 < first_update(job)[1]["distill"] < parts["distill"]
    json.loads((tmp_path / "few" / "distill.json").read_text())


def test_rows_of_tasks_are_compared_without_the_parts_of_their_task(tmp_path: Path) -> None:
    """A prompt for each of two tasks: the original model knows of none, general rows are of none, and the
    batch's route is back afterwards, so that layers which are computed again in the backward pass find it."""
    (tmp_path / "more").mkdir()
    both = [
        {"path": str(write_rows(tmp_path / f"more/{name}.jsonl", sentiment_rows(12, seed))), "task": name}
        for seed, name in enumerate("ab")
    ]
    prompts = [{"method": "prompt", "name": f"of-{t}", "num_virtual_tokens": 2, "tasks": [t]} for t in "ab"]
    adapter, regularizers = [*prompts, LORA], [{"kind": "distill", "on": "both", "max_length": 16}, "l2_sp"]
    found = []
    for again in (False, True):
        train = {"gradient_checkpointing": again, "max_steps": 2}
        data = {"train": both, "split": {"validation": 4, "test": 4}}
        setup = set_up(configured(tmp_path, adapter=adapter, regularizers=regularizers, data=data, train=train))
        shake(setup)
        found.append(first_update(job_of(setup)))
    (loss, parts, gradients), (other, _, theirs) = found
    assert min(parts.values()) > 0 and other == pytest.approx(loss, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(theirs[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


REFUSALS: list[tuple[str, dict[str, Any], str]] = [
    ("kind", {"regularizers": "l3"}, "there is no `l3`"),
    ("twice", {"regularizers": ["l2_sp", {"kind": "l2_sp", "weight": 1}]}, "`l2_sp` is there twice"),
    ("weight", {"regularizers": [{"kind": "l2_sp", "weight": 0}]}, "greater than 0"),
    ("other's", {"regularizers": [{"kind": "l2_sp", "temperature": 2}]}, "unknown key"),
    ("top_k", {"regularizers": [{"kind": "distill", "top_k": 8}]}, "`top_k` belongs to `cache`"),
    ("general", {"regularizers": [{"kind": "distill", "on": "task", "data": "x.txt"}]}, "are for general texts"),
    ("places", {"regularizers": [{"kind": "distill", "positions": "all"}]}, "is for the task's rows"),
    ("cached", {"regularizers": [{"kind": "distill", "on": "both", "cache": "x"}]}, "the task's rows only"),
]


@pytest.mark.parametrize(("sections", "message"), [c[1:] for c in REFUSALS], ids=[c[0] for c in REFUSALS])
def test_what_cannot_be_meant_is_refused(tmp_path: Path, sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(RunConfig, recipe(tmp_path, **sections))


@pytest.mark.parametrize(
    ("model", "entry", "message"),
    [
        ("bert", {"kind": "distill", "temperature": 2.0}, "compares words, and this task has a new head"),
        ("llama", {"kind": "distill", "distance": "cosine"}, "held by the words"),
        ("llama", {"kind": "distill", "on": "task", "cache": "CACHE", "top_k": 384}, "the whole vocabulary"),
    ],
)
def test_what_does_not_fit_is_refused(model: str, entry: dict[str, Any], message: str, tmp_path: Path) -> None:
    entry = {key: str(tmp_path / "cache") if value == "CACHE" else value for key, value in entry.items()}
    with pytest.raises(UserError, match=message) as caught:
        made(model, LORA, [entry])
    assert caught.value.fix


def test_general_text_that_the_run_is_measured_on_is_refused(tmp_path: Path) -> None:
    """The same file, or a copy of it."""
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"a text of some words {i}"}) + "\n" for i in range(9)))
    (tmp_path / "copy.jsonl").write_bytes(texts.read_bytes())
    for name in ("texts.jsonl", "copy.jsonl"):
        entry = {"kind": "distill", "on": "general", "data": str(tmp_path / name)}
        with pytest.raises(UserError, match="measured on these texts"):
            made("llama", LORA, [entry], data={"validation": str(texts), "split": {}})
    setup = made("llama", LORA, [{"kind": "distill", "on": "general", "data": str(texts), "rows": 4}])
    assert [len(b["row_ids"]) for b in setup.regularizing.further(0)] == [4]
    seen = [row for step in range(9) for batch in setup.regularizing.further(step) for row in batch["row_ids"]]
    assert sorted(seen) == sorted(list(range(9)) * 4)  # 36 rows of 9: each four times


def test_packed_weights_have_no_fisher_information_and_are_distilled_all_the_same(tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    values = recipe(tmp_path, train={"max_steps": 2})
    values["model"] = {"path": values["model"], "quantization": "nf4"}
    with pytest.raises(UserError, match="packed into few bits"):
        set_up(build(RunConfig, {**values, "regularizers": "ewc"}))
    setup = set_up(build(RunConfig, {**values, "regularizers": [{"kind": "distill", "on": "task"}, "l2_sp"]}))
    job = job_of(setup)
    assert first_update(job)[1]["distill"] == 0.0
    shake(setup)
    assert min(first_update(job)[1].values()) > 0


def test_a_stage_that_trains_the_head_alone_is_held_by_nothing() -> None:
    """Then no gradient reaches general rows or weights, which is no fault; the next stage is held again."""
    stages = [{"train": "head", "steps": 2}, {"train": "all", "steps": 2}]
    regularizers = [{"kind": "distill", "on": "both"}, "l2_sp", {"kind": "ewc", "samples": 2}]
    setup = made("bert", LORA, regularizers, stages=stages, train={"max_steps": None, "learning_rate": 1e-2})
    job, state, seen = job_of(setup), TrainState(), []
    for _ in range(4):
        enter_stage(job, state, [])
        seen.append(update(job, state, Liveness([], 0))[0])
        state.step += 1
    held = [max(row[f"loss.{name}"] for name in ("l2_sp", "ewc", "distill_general")) for row in seen]
    assert held[:3] == [0.0, 0.0, 0.0] and held[3] > 0


def test_paths_start_at_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "general.txt").write_text("one\n\ntwo")
    (tmp_path / "rows.jsonl").write_text("{}")
    text = "model: m\ndata: rows.jsonl\nadapter: lora\nregularizers:\n  kind: ewc\n  data: general.txt\n"
    (tmp_path / "r.yaml").write_text(text)
    assert load_run(tmp_path / "r.yaml").regularizers[0].data == str(tmp_path / "general.txt")  # type: ignore[attr-defined]
    (tmp_path / "r.yaml").write_text("model: m\ndata: rows.jsonl\nadapter: lora\nregularizers: l2_sp\n")
    assert load_run(tmp_path / "r.yaml", ["regularizers.weight=3"]).regularizers[0].weight == 3


def test_texts_of_the_retention_set_are_refused(tmp_path: Path) -> None:
    """The file that `evaluate.retention` names, and a copy of it, cannot be what the predictions are held on."""
    measured = tmp_path / "mine.jsonl"
    measured.write_text('{"text": "The tide turns twice a day, and the boats turn with it."}\n')
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(measured.read_bytes())
    for data in (measured, copy):
        distill = {"kind": "distill", "on": "general", "data": str(data)}
        with pytest.raises(UserError, match="measured on these texts"):
            made("llama", LORA, [distill], evaluate={"retention": str(measured)})
