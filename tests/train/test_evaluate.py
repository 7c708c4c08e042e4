"""`burnish evaluate` and `burnish compare` on tiny runs: errors, calibration, speed, paired tests, refusals."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from burnish.cli.main import call
from burnish.core.errors import UserError
from burnish.core.files import read_lines
from burnish.models.classifier_files import read_classifier
from burnish.train.compare_runs import compare_runs
from burnish.train.run import start_run
from tests.support.recipes import LABELS, configured, sentiment_rows, write_rows

CLASSES = {
    "model": "bert",
    "task": {"kind": "classification", "calibrate": True},
    "train": {"learning_rate": 0.005},
    "evaluate": {"speed": True},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished classification with a calibrated head; a quarter of its rows have another column `site`."""
    folder = tmp_path_factory.mktemp("evaluate")
    config = configured(folder, rows=300, data={"split": {"validation": 60, "test": 120}}, **CLASSES)
    rows = [
        {"text": r["prompt"], "label": r["completion"].strip(), "site": "north" if i % 4 else "south"}
        for i, r in enumerate(sentiment_rows(300))
    ]
    write_rows(folder / "rows.jsonl", rows)
    return start_run(config).folder


def test_a_run_is_calibrated_and_timed(run: Path) -> None:
    """The temperature lies with the head; its effect is shown on the test rows, and no answer changes."""
    evaluation = json.loads((run / "evaluation.json").read_text())
    found = evaluation["calibration"]
    assert found["fitted_on"] == "validation" and found["shown_on"] == "test"
    assert found["before"]["accuracy"] == found["after"]["accuracy"] != found["temperature"] != 1.0
    assert read_classifier(run / "final").temperature == found["temperature"]
    assert evaluation["tuned"]["metrics"]["ece"]["value"] == pytest.approx(found["after"]["ece"])
    assert evaluation["speed"]["batches"].keys() == {"1", "32"} and "probabilities" in evaluation["speed"]["timed"]
    assert all(one["p50_ms"] <= one["p95_ms"] for one in evaluation["speed"]["batches"].values())
    assert {"mcc", "roc_auc", "pr_auc", "brier", "ece", "weighted_f1"} <= evaluation["tuned"]["metrics"].keys()
    assert {"low", "high"} <= evaluation["comparison"]["macro_f1"].keys()


def test_errors_are_written_and_grouped(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(run), "--errors", "--group-by", "site", "--out", str(tmp_path), "--json"]
    rows = tmp_path / "rows.jsonl"
    assert call([*arguments, "--predictions", str(rows), "--no-speed"]) == 0
    found = json.loads(capsys.readouterr().out)["error_analysis"]
    wrong = [row for row in read_lines(rows) if row["model"]["predicted"] != row["target"]]
    lines = list(csv.DictReader((tmp_path / "errors.csv").open(newline="")))
    assert found["errors"] == len(wrong) and found["rows"] == 120
    assert {w["id"] for w in wrong} <= {line["id"] for line in lines}
    assert all(line["predicted"] != line["true"] or line["label_error_rank"] for line in lines)
    assert {line["site"] for line in lines} <= {"north", "south"}
    assert [float(line["confidence"]) for line in lines] == sorted(
        (float(x["confidence"]) for x in lines), reverse=True
    )
    assert sum(pair["rows"] for pair in found["pairs"]) == len(wrong)
    page = (tmp_path / "errors.html").read_text()
    assert "south" in page and "Taken for another" in page


def test_calibrating_again_is_the_same(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--calibrate` starts from 1 and finds the temperature of the run, up to the run's number format."""
    before = read_classifier(run / "final").temperature
    assert call(["evaluate", str(run), "--calibrate", "--no-speed"]) == 0
    assert "no answer changes" in " ".join(capsys.readouterr().out.split())
    assert read_classifier(run / "final").temperature == pytest.approx(before, rel=1e-3)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--errors", "--group-by", "stie"], "no column `stie`"),
        (["--group-by", "site"], "belong to the error analysis"),
        (["--split", "dev"], "no split `dev`"),
    ],
)
def test_bad_requests_are_refused(
    run: Path, arguments: list[str], what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(["evaluate", str(run), *arguments]) == 2
    assert what in " ".join(capsys.readouterr().err.split())


def test_errors_of_a_model_that_writes_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Choices are classes too; a recipe without any is refused before it is scored, and so is calibrating no head."""
    folder = start_run(configured(tmp_path, evaluate={"choices": list(LABELS)}, train={"max_steps": 2})).folder
    assert call(["evaluate", str(folder), "--errors", "--no-speed"]) == 0
    assert (folder / "errors.html").is_file() and (folder / "errors.csv").is_file()
    capsys.readouterr()
    assert call(["evaluate", str(folder), "--errors", "evaluate.choices=[]"]) == 2
    assert "none" in capsys.readouterr().err
    assert call(["evaluate", str(folder), "--calibrate"]) == 2
    assert "temperature" in capsys.readouterr().err


def test_two_runs_are_compared_on_the_same_rows_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With itself: no significant difference. With a run on other rows: refused, naming one."""
    folders = []
    for name, changes in (("a", {}), ("b", {"adapter": "full"}), ("c", {"seed": 5})):
        settings: dict[str, Any] = {"evaluate": {"choices": list(LABELS)}, "train": {"max_steps": 2}, **changes}
        folders.append(start_run(configured(tmp_path, name=name, **settings)).folder)
    first, second, other = folders
    same = compare_runs(first, first)
    assert all(not m["significant"] and m["better"] is None and m["difference"] == 0 for m in same["metrics"])
    found = compare_runs(first, second)
    accuracy = next(m for m in found["metrics"] if m["name"] == "accuracy")
    stored = [json.loads((f / "evaluation.json").read_text())["tuned"]["metrics"] for f in (first, second)]
    assert [accuracy["first"], accuracy["second"]] == pytest.approx([s["accuracy"]["value"] for s in stored])
    assert 0 <= accuracy["p_value"] <= 1 and found["same_prompts"] and len(found["rows_sha256"]) == 64
    with pytest.raises(UserError, match="scored on different rows"):
        compare_runs(first, other)
    assert call(["compare", str(first), str(first)]) == 0
    assert "no significant difference in any metric" in " ".join(capsys.readouterr().out.split())
    assert call(["compare", str(first), str(tmp_path)]) == 2
