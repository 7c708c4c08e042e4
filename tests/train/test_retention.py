"""The retention set in whole runs: measured, stored, resumed, and without any effect on what is trained."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from burnish.adapters.attach import attach
from burnish.adapters.base import METHODS
from burnish.cli.main import call
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.events import Action, Event, Retained, Stepped
from burnish.core.files import read_lines
from burnish.evaluate.config import RetentionConfig
from burnish.evaluate.retention.change import describe
from burnish.evaluate.retention.score import listen
from burnish.report.page import build_report
from burnish.report.retention import retention_sentence
from burnish.train.config import RunConfig, load_run
from burnish.train.retention import FILE, lost_finding
from burnish.train.run import RunResult, resume_run, start_run
from tests.adapters.variants import case
from tests.evaluate.test_retention import rows_of, view_of
from tests.support.recipes import configured, recipe, save_tiny, sentiment_rows, write_rows
from tests.support.refusals import skip_refused

ROWS: list[dict[str, Any]] = [
    {"text": "the cat sat on the mat and looked at the dog", "domain": "cats"},
    {"text": "this is the dog and the cat", "domain": "cats"},
    {"text": "one two three four five six seven eight", "domain": "numbers"},
    {"question": "one two", "choices": [" three", " nine"], "answer": " three", "suite": "counting"},
]


def with_set(folder: Path, **settings: Any) -> dict[str, Any]:
    """The `evaluate` section of a recipe with a small retention set."""
    folder.mkdir(exist_ok=True)
    return {"samples": 0, "retention": {"sources": str(write_rows(folder / "known.jsonl", ROWS)), **settings}}


def found_in(result: RunResult) -> dict[str, Any]:
    """The ``retention`` of a run."""
    return json.loads((result.folder / "evaluation.json").read_text())["retention"]


@pytest.mark.parametrize("adapter", ["lora", "full"])
def test_training_is_the_same_to_the_bit(tmp_path: Path, adapter: str) -> None:
    """With dropout, with and without a retention set that is scored at every second update: equal weights and log."""
    files, logs = [], []
    for name in ("without", "with"):
        evaluate = with_set(tmp_path / name, every_steps=2) if name == "with" else {"samples": 0}
        config = configured(tmp_path / name if name == "with" else _made(tmp_path / name), adapter=adapter,
                            evaluate=evaluate)  # fmt: skip
        save_tiny(tmp_path / name / "model", dropout=0.1)
        result = start_run(config)
        files.append((result.folder / "checkpoints/step-000006/trainable.safetensors").read_bytes())
        lines = [r for r in read_lines(result.folder / "metrics.jsonl") if r["kind"] in ("train", "validation")]
        logs.append([{k: v for k, v in r.items() if "second" not in k} for r in lines])
    assert files[0] == files[1] and logs[0] == logs[1]
    between = [r for r in read_lines(result.folder / "metrics.jsonl") if r["kind"] == "retention"]
    assert [r["step"] for r in between] == [2, 4, 6] and all(0 < r["retention"] <= 1 for r in between)
    assert all(row["relative"] > 0 for row in found_in(result)["layers"])


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def test_a_resumed_run_uses_what_was_said_before(tmp_path: Path) -> None:
    """Interrupted after four updates and resumed: the same retention, line by line, and another set is refused."""

    def stop(event: Event) -> Action | None:
        if isinstance(event, Stepped) and event.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    results = []
    for name in ("whole", "stopped"):
        config = configured(_made(tmp_path / name), evaluate=with_set(tmp_path / name), adapter="full")
        results.append(start_run(config, callbacks=[stop] if name == "stopped" else []))
    whole, stopped = results
    assert stopped.reason == "interrupted"
    before = (stopped.folder / FILE).read_bytes()
    known = tmp_path / "stopped" / "known.jsonl"
    shutil.copy(known, tmp_path / "kept.jsonl")
    write_rows(known, ROWS[:2])
    with pytest.raises(UserError, match="no longer the one"):
        resume_run(stopped.folder)
    shutil.copy(tmp_path / "kept.jsonl", known)
    resumed = resume_run(stopped.folder)
    assert (resumed.folder / FILE).read_bytes() == before
    first, second = found_in(whole), found_in(resumed)
    assert first["change"] == second["change"] and first["layers"] == second["layers"]
    logs = [
        [r for r in read_lines(one.folder / "metrics.jsonl") if r["kind"] == "retention"] for one in (whole, resumed)
    ]
    assert logs[0] == logs[1]


def test_a_head_is_measured_by_what_it_reads(tmp_path: Path) -> None:
    """An encoder with a new head predicts no tokens: cosine and CKA of what the head reads, and the report says so."""
    rows = [{"text": r["prompt"], "label": r["completion"].strip()} for r in sentiment_rows(60)]
    config = configured(
        tmp_path, model="bert", task="classification", evaluate=with_set(tmp_path),
        data={"train": str(write_rows(tmp_path / "classes.jsonl", rows))},
    )  # fmt: skip
    result = start_run(config)
    found = found_in(result)
    assert found["measure"] == "representations" and found["questions"] == 0
    assert 0 < found["change"]["score"]["value"] < 1 and 0 < found["change"]["cka"] <= 1
    assert set(found["change"]["domains"]) == {"cats", "numbers"}
    page = build_report(result.folder).read_text()
    assert "The head is new, so there are no predictions of tokens" in page


def test_the_report_shows_gain_and_loss(tmp_path: Path) -> None:
    """The section with every part, the curve and the layers; the line of the terminal; the listener hears of it."""
    heard: list[Event] = []
    config = configured(tmp_path, evaluate={**with_set(tmp_path), "choices": ["negative", "neutral", "positive"]})
    result = start_run(config, callbacks=[heard.append])
    page = build_report(result.folder).read_text()
    for text in ("Gained and forgotten", "Task and retention", "How far every layer moved", "counting", "numbers"):
        assert text in page
    evaluation = json.loads((result.folder / "evaluation.json").read_text())
    assert "of what it knew (95" in retention_sentence(evaluation)
    assert sum(isinstance(event, Retained) for event in heard) == 2


def test_scoring_stays_a_small_share(tmp_path: Path) -> None:
    """A run of six updates of 8 rows: ten domains of 60 tokens cost far more than 2 % of it, so nothing between."""
    result = start_run(configured(tmp_path, evaluate={"samples": 0, "retention": {"rows": 1}}))
    assert not [r for r in read_lines(result.folder / "metrics.jsonl") if r["kind"] == "retention"]
    assert len(found_in(result)["change"]["domains"]) == 10


def test_the_warning() -> None:
    """A warning where the whole interval lies below the threshold, with the parts that lost most; else none."""
    part = {"retention": {"value": 0.7}}
    score = {"value": 0.9, "low": 0.85, "high": 0.95}
    found = {"measure": "predictions", "change": {"score": score, "domains": {"German": part}, "suites": {}}}
    finding = lost_finding(found, RetentionConfig())
    assert finding is not None and finding.code == "forgetting.lost" and finding.severity == "warning"
    assert "lost 10.0%" in finding.what and "German 70.0%" in finding.what and "docs/forgetting.md" in finding.fix
    assert lost_finding(found, RetentionConfig(warn_below=0.9)) is None
    assert lost_finding({**found, "measure": "representations"}, RetentionConfig()) is None


def test_paths_start_at_the_recipe(tmp_path: Path) -> None:
    """`retention: known.jsonl` names the file beside the recipe; one that is missing is refused before the run."""
    with_set(tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        "model: m\ndata: {train: rows.jsonl}\nadapter: lora\nevaluate: {retention: known.jsonl}\n"
    )
    config = load_run(tmp_path / "recipe.yaml")
    assert config.evaluate.retention.sources == (str(tmp_path / "known.jsonl"),)
    config = load_run(tmp_path / "recipe.yaml", ["evaluate.retention.rows=3"])
    assert config.evaluate.retention.rows == 3
    with pytest.raises(UserError, match="does not exist"):
        start_run(configured(_made(tmp_path / "run"), evaluate={"retention": "missing.jsonl"}))
    assert not (tmp_path / "run" / "runs").exists()


@pytest.mark.parametrize("layout", ["packed", "bucketed"])
@pytest.mark.parametrize("method", [*METHODS, "lora-dora", "lora-pissa"])
def test_every_method_can_be_measured(method: str, layout: Any) -> None:
    """Scored with its adapters switched off and on: the original's numbers, and a retention; all layers are seen."""
    skip_refused(method, "llama")
    view = view_of("llama", layout)
    attached = attach(view.loaded.model, case(method))
    rows = rows_of(view)
    if attached.trains_base:
        before = listen(view, rows)
    else:
        with attached.disabled():
            before = listen(view, rows)
        assert before.losses == pytest.approx(listen(view_of("llama", layout), rows).losses, abs=1e-5)
    found = describe(rows, before, listen(view, rows, before), seed=0)
    if METHODS[case(method).method].identity:
        assert found["change"]["score"]["value"] == pytest.approx(1, abs=1e-4)
    assert [row["layer"] for row in found["layers"]] == [0, 1]


def test_a_sequence_of_two_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """B starts from A's merged model: a 2 x 2 matrix whose diagonal is what each run says of itself."""
    a = start_run(configured(_made(tmp_path / "a"), name="a"))
    assert call(["merge", str(a.folder), str(tmp_path / "merged")]) == 0
    values = recipe(_made(tmp_path / "b"), name="b") | {"model": str(tmp_path / "merged")}
    b = start_run(build(RunConfig, values))
    capsys.readouterr()
    out = tmp_path / "sequence.json"
    assert call(["sequence", str(a.folder), str(b.folder), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "backward transfer" in printed and "untouched" in printed
    found = json.loads(out.read_text())
    assert found["metrics"] == ["exp(-loss)"] * 2 and len(found["scores"]) == 2
    own = [found["scores"][i][i] for i in range(2)]
    assert own == pytest.approx([2.718281828459045 ** -run.tuned["loss"] for run in (a, b)], rel=1e-3)
    assert call(["sequence", str(a.folder)]) == 2
