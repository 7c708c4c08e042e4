"""The experiment on forgetting: its rows of headlines, and the shares of gain and loss that its summary gives."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from recipes.forgetting import headlines, run


def write_run(folder: Path, base: float, tuned: float, kept: float, metric: str) -> None:
    folder.mkdir(parents=True)
    scored = {which: {"metrics": {metric: {"value": value}}} for which, value in (("base", base), ("tuned", tuned))}
    change = {"change": {"score": {"value": kept}}}
    (folder / "evaluation.json").write_text(json.dumps({**scored, "retention": change}), encoding="utf-8")


def test_articles_that_come_twice_are_one_row(tmp_path: Path) -> None:
    """Of five files: one twice under another number, one with the headline of another, one without a paragraph."""
    texts = {
        "tech/001": "A headline\n\nA paragraph.\n\nMore.",
        "tech/002": "A headline\n\nA paragraph.\n\nMore.",
        "tech/003": "Another one\n\nWith its paragraph.",
        "sport/001": "A headline\n\nOther words.",
        "sport/002": "Alone",
    }
    for name, text in texts.items():
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    rows = list(headlines.unique(headlines.articles(tmp_path)))
    assert rows == [
        {"paragraph": "Other words.", "headline": "A headline", "section": "sport"},
        {"paragraph": "With its paragraph.", "headline": "Another one", "section": "tech"},
    ]


@pytest.mark.parametrize(("metric", "sign"), [("macro_f1", 1), ("loss", -1)])
def test_shares_are_taken_seed_by_seed(tmp_path: Path, metric: str, sign: int) -> None:
    """Plain gains 0.2 and 0.4 and loses 10 % and 20 %; the arm gains 0.2 and 0.3 and loses 1 % and 4 %.

    Gain kept: 100 % and 75 %, in the mean 87.5; loss kept back: 90 % and 80 %, in the mean 85. A loss that falls is a
    gain too.
    """
    for seed, (plain, arm) in enumerate((((0.2, 0.9), (0.2, 0.99)), ((0.4, 0.8), (0.3, 0.96)))):
        write_run(tmp_path / f"plain-seed{seed}", 0.5, 0.5 + sign * plain[0], plain[1], metric)
        write_run(tmp_path / f"gentle-and-replay-seed{seed}", 0.5, 0.5 + sign * arm[0], arm[1], metric)
    runs = {name: run.runs_of(tmp_path, name, metric) for name in ("plain", "gentle and replay")}
    arm_ = {"label": "gentle and replay", "task": {"value": 0.75, "low": 0.7, "high": 0.8}}
    assert run.line(arm_, runs["gentle and replay"], runs["plain"]) == (
        "| gentle and replay | 0.750 (0.700 to 0.800) | +0.250 | 87.5 % (75.0 to 100.0) | 2.5 % (1.0 to 4.0) "
        "| 85.0 % (80.0 to 90.0) |"
    )
