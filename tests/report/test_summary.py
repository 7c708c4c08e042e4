"""The report in a terminal."""

from __future__ import annotations

import io
import math
from pathlib import Path

from rich.console import Console

from burnish.report.page import build_report
from burnish.report.summary import metrics_table, print_summary
from tests.report.synthetic import change, get, write_run


def printed(folder: Path) -> str:
    """What the summary prints on a wide terminal without colour."""
    console = Console(file=io.StringIO(), width=140)
    print_summary(folder, console)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_finished_run(run: Path) -> None:
    """The verdict, both models with their difference, and where the model and the page are."""
    build_report(run)
    text = printed(run)
    values = get(run / "evaluation.json")
    base, tuned = (values[name]["metrics"]["accuracy"]["value"] for name in ("base", "tuned"))
    line = next(line for line in text.splitlines() if line.startswith("Accuracy"))
    assert f"{base:.3f}" in line and f"{tuned:.3f}" in line and f"+{tuned - base:.3f}" in line and "0.001" in line
    assert "After tuning on 1,200 rows" in text
    assert str(run / "final") in text.replace("\n", "") and str(run / "report.html") in text.replace("\n", "")
    assert "1 warning, 1 note" in text


def test_an_interrupted_run(tmp_path: Path) -> None:
    """No table, no model, but how to go on."""
    text = " ".join(printed(write_run(tmp_path / "cut", finished=False)).split())
    assert "not finished" in text and "burnish resume" in text
    assert "Accuracy" not in text and "handed over" not in text


def test_markup_in_texts_is_no_markup(run: Path) -> None:
    """Rich would take `[red]` for a colour: in a metric's name it is printed as it stands."""
    values = get(run / "evaluation.json")
    values["tuned"]["metrics"]["[red]odd[/red]"] = {"value": 1.0}
    change(run / "evaluation.json", **values)
    assert "[red]odd[/red]" in printed(run)


def test_one_model() -> None:
    """One column for the model and one for its interval; null and NaN are dashes."""
    metrics = {
        "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6},
        "loss": {"value": None},
        "bleu": {"value": math.nan},
    }
    table = metrics_table({"model": {"metrics": metrics}})
    cells = [[str(cell) for cell in column.cells] for column in table.columns]
    assert cells == [
        ["Accuracy", "BLEU", "Loss per target token"],
        ["0.500", "–", "–"],
        ["0.400 to 0.600", "", ""],
    ]


def test_no_metrics() -> None:
    """An evaluation without metrics gives an empty table, not an error."""
    assert metrics_table({"model": {}}).row_count == 0
