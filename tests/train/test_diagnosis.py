"""The detectors beside a run: what it is told, how it ends or slows down, and that this resumes to the bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.cli.main import call
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.events import Event, Noticed, Save, Stepped, Stop
from burnish.core.files import read_lines
from burnish.report.page import build_report
from burnish.train.config import RunConfig
from burnish.train.lr_range import range_test
from burnish.train.run import resume_run, start_run
from tests.support.recipes import configured, recipe

TRAIN = {"max_steps": 24, "learning_rate": 0.5, "schedule": "constant"}


def hot(folder: Path, action: str, **train: Any) -> RunConfig:
    """A rate a hundred times too high, and what a finding leads to."""
    return configured(
        folder,
        adapter="full",
        train={**TRAIN, **train, "on_finding": action},
        evaluate={"every_steps": 12, "samples": 0},
    )


def rates(folder: Path) -> list[float]:
    return [row["learning_rate"] for row in read_lines(folder / "metrics.jsonl") if row["kind"] == "train"]


def test_it_tells_once_and_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Told once in the terminal's events, in the findings, in the report, and again by `burnish diagnose`."""
    heard: list[Event] = []
    result = start_run(hot(tmp_path, "tell"), callbacks=[heard.append])
    told = [e.finding.code for e in heard if isinstance(e, Noticed) and e.finding.code.startswith("loss.")]
    assert told.count("loss.rate-too-high") == 1 and result.reason == "completed"
    noted = [row["code"] for row in read_lines(result.folder / "findings.jsonl")]
    assert noted.count("loss.rate-too-high") == 1
    assert set(rates(result.folder)[1:]) == {0.5}
    assert 'id="diagnosis"' in build_report(result.folder).read_text()
    assert call(["diagnose", str(result.folder), "--json"]) == 0
    codes = {finding["code"] for finding in json.loads(capsys.readouterr().out)["findings"]}
    assert codes == {f["code"] for f in json.loads((result.folder / "diagnosis.json").read_text())["findings"]}


def test_it_stops_where_the_recipe_says_so(tmp_path: Path) -> None:
    result = start_run(hot(tmp_path, "stop"))
    assert result.reason == "loss.rate-too-high" and result.step < 15


def test_a_lowered_rate_resumes_to_the_bit(tmp_path: Path) -> None:
    """Halved at one update and again ten later; interrupted between the two, the run ends with the same losses."""

    def keep(event: Event) -> Any:
        return Save() if isinstance(event, Stepped) else None

    def leave(event: Event) -> Any:
        return Stop("interrupted") if isinstance(event, Stepped) and event.step == 14 else keep(event)

    whole = start_run(hot(tmp_path / "whole", "lower_rate"), callbacks=[keep]).folder
    lowered = rates(whole)
    assert lowered[0] == pytest.approx(0.25) and sorted(set(lowered[1:]), reverse=True)[:2] == [0.5, 0.25]
    broken = start_run(hot(tmp_path / "broken", "lower_rate"), callbacks=[leave]).folder
    resume_run(broken)
    assert rates(broken) == lowered
    assert [row["loss"] for row in read_lines(broken / "metrics.jsonl") if row["kind"] == "train"] == [
        row["loss"] for row in read_lines(whole / "metrics.jsonl") if row["kind"] == "train"
    ]


def test_where_the_setting_stands(tmp_path: Path) -> None:
    """`train.on_finding` is short for `early_stopping.on_finding`; two that differ are refused, as is a third word."""
    assert hot(tmp_path, "stop").early_stopping.on_finding == "stop"
    assert configured(tmp_path).early_stopping.on_finding == "tell"
    both = recipe(tmp_path, train={"on_finding": "stop"}, early_stopping={"on_finding": "tell"})
    with pytest.raises(UserError, match="contradict"):
        build(RunConfig, both)
    with pytest.raises(UserError, match="shout"):
        hot(tmp_path, "shout")


def test_the_range_test_ends_before_it_harms(tmp_path: Path) -> None:
    """It ends where the loss turns, suggests a rate far below that, and leaves neither a folder nor other weights.

    A rate of 0.5 is far above what it suggests, which is said.
    """
    config = configured(tmp_path, adapter="full", train={"learning_rate": 0.5}, evaluate={"samples": 0})
    found = range_test(config, low=1e-4, high=10.0, updates=40)
    assert found.ended == "the loss turned upwards" and len(found.rates) < 40
    ratio = (10.0 / 1e-4) ** (1 / 39)
    assert found.rates[1] / found.rates[0] == pytest.approx(ratio) and found.rates[0] == pytest.approx(1e-4)
    rate = found.suggestion.rate
    assert rate is not None and 1e-4 < rate <= found.suggestion.turn / 3
    assert found.finding().code == "rate.off" and not (tmp_path / "runs").exists()
    again = range_test(config, low=1e-4, high=10.0, updates=40)
    assert again.losses == found.losses  # nothing of the first test is left in the second
    with pytest.raises(UserError, match="is empty"):
        range_test(config, low=1.0, high=0.1)
