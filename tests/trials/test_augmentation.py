"""The report of what augmentation does: paired, on the same rows, with as many updates, and honest about harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import f1_score

from burnish.cli.main import call
from burnish.core.errors import UserError
from burnish.trials.augmentation import AugmentationReport, Trial, table
from burnish.trials.paired import Answers, paired_difference, verdict
from tests.support.recipes import recipe, write_rows


def answers(seed: int, right: float, n: int = 300) -> Answers:
    draw = np.random.default_rng(seed)
    true = np.arange(n) % 3
    predicted = np.where(draw.random(n) < right, true, draw.integers(0, 3, n))
    rows = [
        {"id": f"r:{i}", "target": f" {'abc'[t]}", "model": {"predicted": "abc"[p]}}
        for i, (t, p) in enumerate(zip(true, predicted, strict=True))
    ]
    return Answers.of(rows)


def test_scores_are_those_of_scikit_learn() -> None:
    found = answers(0, 0.7)
    assert found.macro_f1 == pytest.approx(f1_score(found.true, found.predicted, average="macro"), abs=1e-12)
    assert found.accuracy == float((found.true == found.predicted).mean())


def test_the_interval_holds_rows_and_seeds() -> None:
    """By hand with scikit-learn: the same rows and seeds drawn, the difference of the drawn rows' F1, its percentiles.

    The draws are those of the function, so that the percentiles are equal to rounding."""
    without, with_ = [answers(s, 0.6) for s in (0, 1)], [answers(s, 0.9) for s in (2, 3)]
    mean, low, high = paired_difference(without, with_, seed=4, draws=40)
    draw, n = np.random.default_rng(4), 300
    weights = draw.multinomial(n, np.full(n, 1 / n), size=40)
    seeds = np.random.default_rng((4, 1)).multinomial(2, [0.5, 0.5], size=40) / 2
    values = [
        sum(
            share * (f1_score(b.true, b.predicted, average="macro", sample_weight=w)
                     - f1_score(a.true, a.predicted, average="macro", sample_weight=w))
            for share, a, b in zip(chosen, without, with_, strict=True)
        )
        for w, chosen in zip(weights, seeds, strict=True)
    ]  # fmt: skip
    assert (low, high) == pytest.approx(np.percentile(values, (2.5, 97.5)), abs=1e-9)
    assert low < mean < high and verdict(low, high) == "helps"


def test_what_harms_is_said_to_harm() -> None:
    _, low, high = paired_difference([answers(0, 0.9)], [answers(1, 0.4)])
    assert verdict(low, high) == "harms" and verdict(-0.1, 0.1) == "no difference shown"
    trials = (Trial("none", 0, (0.8,)), Trial("swap", 10, (0.5,), -0.3, -0.4, -0.2, "harms"))
    shown = table(AugmentationReport("r", (0,), 10, 20, 5, trials))
    assert [str(c) for c in shown.columns[5]._cells] == ["", "harms"]


def test_runs_on_other_rows_are_not_compared() -> None:
    with pytest.raises(UserError, match="different rows"):
        paired_difference([answers(0, 0.9)], [answers(0, 0.9, n=200)])


def recipe_file(folder: Path, **data: Any) -> Path:
    rows = [{"text": f"{'good' if i % 2 else 'bad'} morning plane window {i}", "label": "ab"[i % 2]} for i in range(60)]
    values = recipe(folder, task="classification", data=data)
    write_rows(folder / "rows.jsonl", rows)
    (folder / "r.yaml").write_text(json.dumps(values))
    return folder / "r.yaml"


def test_a_report_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without, with each and with both: the same split, as many updates; a second call trains nothing anew."""
    path = recipe_file(tmp_path, augment=["swap", "delete"])
    assert call(["augment-report", str(path), "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    report = json.loads((tmp_path / "runs/run-augmentation/augmentation.json").read_text())
    names = [t["name"] for t in report["trials"]]
    assert names == ["none", "swap", "delete", "all together"] and "all together" in out
    assert report["trials"][3]["added"] > report["trials"][1]["added"] > report["trials"][0]["added"] == 0
    runs = sorted((tmp_path / "runs/run-augmentation").glob("*-seed-*"))
    assert len(runs) == 4
    data = [json.loads((run / "data.json").read_text()) for run in runs]
    assert len({d["splits"]["validation"]["sha256"] for d in data}) == 1
    assert {json.loads((run / "model.json").read_text())["updates"] for run in runs} == {6}
    before = [(run / "evaluation.json").stat().st_mtime_ns for run in runs]
    assert call(["augment-report", str(path), "--seeds", "1"]) == 0
    assert before == [(run / "evaluation.json").stat().st_mtime_ns for run in runs]


def test_what_cannot_be_reported_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = recipe_file(tmp_path)
    assert call(["augment-report", str(path)]) == 2
    assert "augments nothing" in capsys.readouterr().err
    assert call(["augment-report", str(path), "task=text", "data.augment=[swap]"]) == 2
    assert "tells no classes apart" in capsys.readouterr().err
