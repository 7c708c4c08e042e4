"""Every task with a head from recipe to hand-over on tiny models: learnt, kept, exported, resumed, asked, refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from burnish.cli.main import call
from burnish.core.errors import UserError
from burnish.core.events import Action, Event, Stepped
from burnish.core.files import read_lines
from burnish.data.batches import collate
from burnish.models.classifier import class_logits
from burnish.ops.units import UNIT_LOSSES
from burnish.report.page import build_report
from burnish.train.config import RunConfig
from burnish.train.export import compare_export
from burnish.train.handover import load_handed_over, open_model
from burnish.train.merging import merge_run
from burnish.train.run import resume_run, start_run
from burnish.train.setup import set_up
from burnish.train.verify import verify_run
from tests.support.head_rows import ROWS, asked_rows
from tests.support.recipes import configured, write_rows

KINDS = list(ROWS)
MAIN = {
    "token-classification": "entity_f1",
    "extractive-qa": "exact_match",
    "multi-label": "macro_f1",
    "regression": "pearson",
    "ranking": "pair_accuracy",
}


def task_named(name: str, **settings: Any) -> dict[str, Any]:
    several = {"kind": "classification", "multi_label": True}
    return {**(several if name == "multi-label" else {"kind": name}), **settings}


def asking(folder: Path, name: str, *, rows: Any = None, **sections: Any) -> RunConfig:
    """The tests' recipe for a task; LoRA on BERT unless ``sections`` say otherwise."""
    task = task_named(name, **sections.pop("task", {}))
    values = {"model": "bert", "task": task, "train": {"learning_rate": 0.005}, **sections}
    folder.mkdir(exist_ok=True)
    config = configured(folder, rows=9, **values)
    write_rows(folder / "rows.jsonl", ROWS[name](80) if rows is None else rows)
    return config


@pytest.mark.parametrize(("model", "method"), [("bert", "lora"), ("llama", "full"), ("gpt2", "lora")])
@pytest.mark.parametrize("name", KINDS)
def test_a_run_from_end_to_end(tmp_path: Path, name: str, model: str, method: str) -> None:
    """Base and tuned are scored, the head is kept and read back, and the page says what came of it."""
    rate = {"lora": 0.005, "full": 0.0005}[method]
    result = start_run(asking(tmp_path, name, model=model, adapter=method, train={"learning_rate": rate}))
    assert result.tuned["loss"] != result.base["loss"] and MAIN[name] in result.tuned
    checks = verify_run(result.folder)
    assert len(checks) >= 4 and all(check.passed for check in checks), checks
    evaluation = json.loads((result.folder / "evaluation.json").read_text())
    assert evaluation["rows"] == 12 and evaluation["new_head"] and "perplexity" not in result.tuned
    for metric in evaluation["tuned"]["metrics"].values():
        assert set(metric) == {"value", "low", "high"}
    assert {"loss", MAIN[name]} <= set(evaluation["comparison"])
    rows = read_lines(result.folder / "predictions.jsonl")
    assert len(rows) == 12 and all("predicted" in row["tuned"] and row["prompt"] for row in rows)
    loaded = load_handed_over(result.folder)
    assert loaded.classifier is not None and loaded.classifier.task == name
    page = build_report(result.folder).read_text()
    assert "chance" in page and "Traceback" not in page


@pytest.mark.parametrize("name", KINDS)
def test_rows_are_learnt(tmp_path: Path, name: str) -> None:
    """The target follows from the words, and a random BERT finds out how."""
    settings = {"train": {"max_steps": 100, "learning_rate": 0.003}, "evaluate": {"every_steps": 50}}
    result = start_run(asking(tmp_path, name, adapter="full", rows=ROWS[name](400), **settings))
    least = 0.5 if name == "extractive-qa" else 0.7  # to match names takes a model longer; the real one does it
    assert result.tuned[MAIN[name]] > least and result.tuned["loss"] < 0.6 * result.base["loss"], result.tuned


THEIRS = {
    "token-classification": AutoModelForTokenClassification,
    "extractive-qa": AutoModelForQuestionAnswering,
    "multi-label": AutoModelForSequenceClassification,
    "ranking": AutoModelForSequenceClassification,
}


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("token-classification", "bert"), ("token-classification", "llama"), ("extractive-qa", "bert"),
        ("extractive-qa", "gpt2"), ("multi-label", "llama"), ("ranking", "llama"),
    ],
)  # fmt: skip
def test_what_transformers_can_express_it_loads_with_equal_logits(tmp_path: Path, name: str, model: str) -> None:
    """Merged, in its own class for the task, to 1e-4; and our own files beside it give the same."""
    result = start_run(asking(tmp_path, name, model=model))
    report = merge_run(result.folder, tmp_path / "merged", measure=False)
    assert report.read_by.startswith("transformers reads it as")
    theirs = THEIRS[name].from_pretrained(tmp_path / "merged").eval()
    ours = open_model(str(tmp_path / "merged"))
    assert ours.classifier is not None
    ids = torch.randint(4, 300, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        own = class_logits(ours.model, ours.classifier, {"input_ids": ids})
        said = theirs(input_ids=ids)
    other = torch.stack([said.start_logits, said.end_logits], -1) if name == "extractive-qa" else said.logits
    torch.testing.assert_close(other, own, rtol=0, atol=1e-4)
    if name != "extractive-qa" and name != "ranking":
        assert tuple(theirs.config.id2label.values()) == ours.classifier.labels
    assert compare_export(result.folder, str(tmp_path / "merged")).passed


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("model", ["bert", "llama"])
def test_losses_do_not_depend_on_the_layout(tmp_path: Path, name: str, model: str) -> None:
    """Packed, padded and one row at a time: the same loss of every unit, to 1e-5."""
    setup = set_up(asking(tmp_path, name, model=model))
    head, table = setup.loaded.classifier, setup.prepared.train
    assert head is not None
    with torch.no_grad():
        head.weight.mul_(20)
        setup.loaded.model.eval()
        sums = []
        for layout in ("packed", "padded", "single"):
            parts = [[5, 0, 9]] if layout != "single" else [[5], [0], [9]]
            kind = layout if layout != "single" else "padded"
            batches = [collate(table, part, kind, 0) for part in parts]  # type: ignore[arg-type]
            units = [UNIT_LOSSES[name](class_logits(setup.loaded.model, head, b), b)[0] for b in batches]
            sums.append(torch.cat(units))
    for other in sums[1:]:
        torch.testing.assert_close(other.sort().values, sums[0].sort().values, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["token-classification", "extractive-qa", "multi-label"])
def test_resuming_is_exact(tmp_path: Path, name: str) -> None:
    """Stopped after two updates and resumed: the same head, metrics, thresholds and base scores, bit for bit."""

    def stop(event: Event) -> Action | None:
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    configs = [asking(tmp_path / side, name) for side in ("a", "b")]
    whole, stopped = start_run(configs[0]), start_run(configs[1], callbacks=[stop])
    assert stopped.reason == "interrupted"
    resumed = resume_run(stopped.folder)
    assert resumed.tuned == whole.tuned and resumed.base == whole.base
    for file in ("final/classifier.safetensors", "final/classifier.json", "predictions.jsonl"):
        one, other = ((r.folder / file).read_bytes().replace(b"/b/", b"/a/") for r in (whole, resumed))
        assert one == other


def test_a_threshold_for_no_answer_is_chosen_and_kept(tmp_path: Path) -> None:
    """On the validation rows, said as a finding, written into the head's file; the report has both kinds apart."""
    config = asking(tmp_path, "extractive-qa", rows=asked_rows(120, unanswerable=True))
    result = start_run(config)
    head = json.loads((result.folder / "final/classifier.json").read_text())
    assert head["settings"]["no_answer"] and isinstance(head["settings"]["threshold"], float)
    assert any(f["code"] == "evaluate.threshold" for f in read_lines(result.folder / "findings.jsonl"))
    evaluation = json.loads((result.folder / "evaluation.json").read_text())
    assert set(evaluation["tuned"]["by_answer"]) == {"with an answer", "without an answer"}


def test_long_contexts_are_scored_once_a_question(tmp_path: Path) -> None:
    """Windows of 40 tokens: more rows than questions, one prediction for each question, and places in its context."""
    filler = "the dog looked at the user and this is on the mat " * 3
    rows = []
    for row in asked_rows(70):
        start = row["answers"]["answer_start"][0] + len(filler)
        answers = {"text": row["answers"]["text"], "answer_start": [start]}
        rows.append({**row, "context": filler + row["context"], "answers": answers})
    data = {"render": {"max_length": 40}}
    result = start_run(asking(tmp_path, "extractive-qa", rows=rows, data=data, task={"stride": 10}))
    evaluation = json.loads((result.folder / "evaluation.json").read_text())
    assert evaluation["rows"] == len(read_lines(result.folder / "predictions.jsonl")) == 12
    summary = json.loads((result.folder / "data.json").read_text())["splits"]["test"]
    assert summary["rows"] > 24
    for row in read_lines(result.folder / "predictions.jsonl"):
        said = row["tuned"]
        context = row["prompt"].split("\n", 1)[1]
        assert context[said["start"] : said["end"]] == said["predicted"]


def test_entities_of_new_text_have_their_places(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Characters of the text as it was given, punctuation apart; without words there is nothing to find."""
    result = start_run(asking(tmp_path, "token-classification"))
    assert call(["classify", str(result.folder), "the cat, sat on the mat.", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    for entity in answer["entities"]:
        assert answer["text"][entity["start"] : entity["end"]] == entity["text"]
        assert entity["label"] in ("PER", "LOC") and 0 < entity["score"] <= 1


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("extractive-qa", ["where sat the cat", "--context", "the cat sat on two"], "answer"),
        ("multi-label", ["the cat sat"], "labels"),
        ("regression", ["cat cat on"], "score"),
        ("ranking", ["describe", "--pair", "the cat"], "score"),
    ],
)
def test_new_texts_are_answered(
    tmp_path: Path, name: str, arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    result = start_run(asking(tmp_path, name))
    assert call(["classify", str(result.folder), *arguments, "--json"]) == 0
    assert expected in json.loads(capsys.readouterr().out)
    assert call(["classify", str(result.folder), *arguments]) == 0
    assert capsys.readouterr().out.strip()


def test_a_question_without_its_context_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = start_run(asking(tmp_path, "extractive-qa"))
    assert call(["classify", str(result.folder), "where sat the cat"]) == 2
    assert "needs its context" in capsys.readouterr().err


def test_scores_keep_their_unit_on_other_rows(tmp_path: Path) -> None:
    """Mean and deviation are those of the training rows also when other rows are scored."""
    result = start_run(asking(tmp_path, "regression"))
    recipe = (result.folder / "recipe.yaml").read_text()
    head = json.loads((result.folder / "final/classifier.json").read_text())["settings"]
    assert f"mean: {head['mean']}" in recipe and head["deviation"] > 1
    other = write_rows(tmp_path / "other.jsonl", [{"text": f"cat {i}", "score": 7000 + i} for i in range(9)])
    given = [f"data.validation={{path: {other}}}", "data.split.validation=0", "--split", "validation"]
    out = tmp_path / "answers.jsonl"
    assert call(["evaluate", str(result.folder), *given, "--predictions", str(out)]) == 0
    assert all(row["model"]["value"] < 1000 for row in read_lines(out))


@pytest.mark.parametrize(
    ("name", "rows", "settings", "what"),
    [
        ("regression", [{"text": f"cat {i}", "score": 5} for i in range(40)], {}, "all training rows have the score 5"),
        ("regression", [{"text": f"cat {i}", "score": "x"} for i in range(40)], {}, "a finite number"),
        ("multi-label", [{"text": f"cat {i}", "labels": "a"} for i in range(40)], {}, "a list of classes"),
        ("multi-label", [{"text": f"cat {i}", "labels": []} for i in range(40)], {}, "0 different labels"),
        ("multi-label", None, {"task": {"labels": ["cat", "dog"]}}, "none of `task.labels`: `mat`"),
        ("multi-label", None, {"task": {"focal_gamma": 2.0}}, "not multi_label"),
        ("ranking", [{"chosen": f"cat {i}", "prompt": "x"} for i in range(40)], {}, "column `rejected`"),
        ("token-classification", None, {"early_stopping": {"metric": "macro_f1"}}, "entity_f1"),
        ("token-classification", None, {"evaluate": {"metrics": ["bleu"]}}, "scored by its head"),
        ("extractive-qa", None, {"model": "t5"}, "encoder-decoder"),
        ("extractive-qa", None, {"data": {"render": {"max_length": 500}}}, "128 positions"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, name: str, rows: Any, settings: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError) as caught:
        set_up(asking(tmp_path, name, rows=rows, **settings))
    assert what in str(caught.value)


def test_pairs_of_equal_texts_and_empty_texts_are_dropped(tmp_path: Path) -> None:
    same = [{"prompt": "describe", "chosen": "cat", "rejected": "cat"}]
    scored = [{"text": " ", "score": 3}, {"text": "cat", "score": None}]
    for name, odd in (("ranking", same), ("regression", scored)):
        config = asking(tmp_path / name, name, rows=[*ROWS[name](80), *odd])
        assert set_up(config).prepared.summary["n_dropped"] == len(odd)
