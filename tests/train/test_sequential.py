"""Two tasks learnt one after the other: each means of a recipe against forgetting, and the matrix of both runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.cli.main import call
from burnish.core.config import build
from burnish.core.files import read_lines
from burnish.train.config import RunConfig
from burnish.train.run import start_run
from tests.support.recipes import configured, recipe, write_rows

ANIMALS = [
    {"prompt": f"The {a} number {i} sat on the mat:", "completion": f" {b}"}
    for i in range(30)
    for a, b in (("cat", "one"), ("dog", "two"))
]


@pytest.mark.parametrize("kind", ["o_lora", "ewc"])
def test_a_second_task_against_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Run A, its merged model with task B and the regularizer, then `burnish sequence`: a matrix of 2 x 2 scores.

    The penalty is in the second run's log from its first update on (O-LoRA) or from the second (EWC, whose weights have
    moved by then), and the second run starts where the first ended: its model is the merged folder.
    """
    (tmp_path / "a").mkdir()
    first = start_run(configured(tmp_path / "a"))
    merged = tmp_path / "merged"
    assert call(["merge", str(first.folder), str(merged)]) == 0
    (tmp_path / "b").mkdir()
    values: dict[str, Any] = recipe(tmp_path / "b", name="second")
    write_rows(tmp_path / "b" / "rows.jsonl", ANIMALS)
    held = {"kind": "o_lora", "earlier": [str(first.folder)]} if kind == "o_lora" else {"kind": "ewc", "samples": 2}
    second = start_run(build(RunConfig, {**values, "model": str(merged), "regularizers": [held]}))
    lines = [line for line in read_lines(second.folder / "metrics.jsonl") if line["kind"] == "train"]
    penalties = [line[f"loss.{kind}"] for line in lines]
    assert all(value > 0 for value in penalties[1:]) and (penalties[0] > 0) == (kind == "o_lora")
    capsys.readouterr()
    assert call(["sequence", str(first.folder), str(second.folder), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [len(row) for row in found["scores"]] == [2, 2] and len(found["base"]) == 2
    assert found["runs"] == [str(first.folder), str(second.folder)]
