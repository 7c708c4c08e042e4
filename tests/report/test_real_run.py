"""The report of runs that the loop itself has written, so that the files' shapes are those of the code."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from burnish.core.events import Event, Stepped, Stop
from burnish.report.page import build_report
from burnish.report.read import load_run
from burnish.report.summary import print_summary
from burnish.train.run import start_run
from tests.report.test_page import Outline, sections, sound
from tests.support.recipes import LABELS, configured

ALL = ["results", "curves", "answers", "samples", "trained", "data", "findings", "environment", "recipe"]


@pytest.mark.parametrize("choices", [True, False])
def test_a_tiny_run(tmp_path: Path, choices: bool) -> None:
    """Six updates of a tiny model: every section is there, and the evaluation's value is on the page."""
    evaluate = {"choices": list(LABELS)} if choices else {"metrics": ["exact_match"]}
    settings = {"every_steps": 3, "samples": 2, "generate": {"max_new_tokens": 4}}
    result = start_run(configured(tmp_path, evaluate={**settings, **evaluate}))
    page = build_report(result.folder).read_text(encoding="utf-8")
    outline = Outline(page)
    sound(page, outline)
    assert sections(outline) == ALL
    shown = f"{result.tuned['accuracy' if choices else 'exact_match']:.3f}"
    assert shown in outline.text
    assert "could not be read" not in page
    assert load_run(result.folder).step == 6
    console = Console(file=io.StringIO(), width=160)
    print_summary(result.folder, console)
    assert shown in console.file.getvalue()  # type: ignore[attr-defined]


def test_an_interrupted_tiny_run(tmp_path: Path) -> None:
    """Stopped like by Ctrl-C after two of six updates: the page says so."""

    def stop(event: Event) -> Stop | None:
        return Stop("interrupted") if isinstance(event, Stepped) and event.step == 2 else None

    result = start_run(configured(tmp_path), callbacks=[stop])
    page = build_report(result.folder).read_text(encoding="utf-8")
    outline = Outline(page)
    sound(page, outline)
    assert "2 of 6 updates are done" in page and "results" not in sections(outline)
