"""`burnish recommend` from end to end, with a stand-in for the processes of its trials."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.api import load_recipe
from burnish.cli.main import call
from burnish.compare import worker
from burnish.compare.recommend import settings_of
from burnish.compare.variants import read_variants
from tests.support.recipes import LABELS, configured, recipe


@pytest.fixture
def path(tmp_path: Path) -> Path:
    values = recipe(tmp_path, evaluate={"choices": list(LABELS)}, train={"max_steps": 8})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "recipe.yaml"


def asked(path: Path, *further: str) -> list[str]:
    return ["recommend", str(path), "--output", str(path.parent / "out"), *further]


def test_the_rule_alone(path: Path, calls: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    """36 training rows are few, but the model is small: LoRA with bottlenecks, untried, as a recipe's settings."""
    assert call(asked(path, "--no-trials")) == 0
    shown = capsys.readouterr().out
    assert "says `lora&bottleneck`" in shown and "rests on the rule alone" in shown and "arXiv:2110.07577" in shown
    assert not calls
    config = load_recipe(path, [f"@{path.parent / 'out/recommended.yaml'}"])
    assert [one.method for one in config.adapters] == ["lora", "bottleneck"] and config.train.learning_rate is None
    assert call(asked(path, "--no-trials", "--latency", "--json")) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["prior"]["rule"]["method"] == "lora" and told["trials"]["rests_on"] == "rule"
    assert told["prior"]["situation"]["rows"] == 36 and told["prior"]["situation"]["peaks"]["lora"] > 0


def test_the_trials_are_run_once_on_validation_rows_alone(
    path: Path, calls: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Three candidates to a quarter, the rule's and the better other one to the end with two seeds; one that does not
    fit is reported. No file holds scores of a test row. Called again, nothing is trained."""
    arguments = asked(path, "--methods", "lora,lora+rank=99,bottleneck+reduction_factor=4", "--seeds", "2", "--json")
    assert call(arguments) == 0
    told = json.loads(capsys.readouterr().out)
    assert [mode for mode, _ in calls] == ["stretch"] * len(calls)
    names = [name for _, name in calls]
    assert names[:3] == ["lora-bottleneck-seed0", "lora-seed0", "lora-rank-99-seed0"]
    assert names.count("lora-rank-99-seed0") == 1
    ended = [one["label"] for one in told["trials"]["candidates"] if one["finalist"]]
    assert "lora&bottleneck" in ended and len(ended) == 2 and len(calls) == 4 + 4
    failed = next(one for one in told["trials"]["candidates"] if one["label"] == "lora+rank=99")
    assert "rank 99 is above" in failed["why_not"]
    assert told["trials"]["split"] == "validation" and told["trials"]["rows"] == 12
    assert not list((path.parent / "out").rglob("predictions.jsonl"))
    assert told["recommended"]["method"] in ended and told["trials"]["pairs"]

    calls.clear()
    assert call(arguments) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["trials"] == told["trials"] and again["recommended"] == told["recommended"]
    assert [name for _, name in calls] == ["lora-rank-99-seed0"]  # what was refused is tried again
    assert call(arguments[:-1]) == 0
    shown = capsys.readouterr()
    assert "The rule says lora&bottleneck" in shown.out and "validation rows" in shown.out
    assert "says `lora&bottleneck`" in shown.err


def test_an_interrupted_race_says_that_it_is_one(
    path: Path, calls: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the third stretch: what is written says so; the next call makes only the third again."""
    plain = worker.MODES["stretch"]

    def third(config: Any, **options: Any) -> None:
        if len(calls) == 3:
            raise KeyboardInterrupt
        plain(config, **options)

    arguments = asked(path, "--methods", "lora", "--seeds", "2", "--json")
    monkeypatch.setitem(worker.MODES, "stretch", third)
    assert call(arguments) == 130
    written = json.loads((path.parent / "out/recommend.json").read_text())
    assert written["trials"]["kind"] == "unfinished" and written["trials"]["rests_on"] == "rule"
    assert "not come to their end" in written["trials"]["words"][0]
    monkeypatch.setitem(worker.MODES, "stretch", plain)
    capsys.readouterr()
    assert call(arguments) == 0
    assert json.loads(capsys.readouterr().out)["trials"]["kind"] in ("confirmed", "overturned", "undecided")
    both = "lora-bottleneck"
    assert [name for _, name in calls] == [f"{both}-seed0", "lora-seed0", *[f"{both}-seed1"] * 2, "lora-seed1"]


def test_a_budget_shortens_the_trials(
    path: Path, calls: list[Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two finalists, two candidates, one seed: a race of two whole trials, so that 17 updates give 8 each. With 0.02
    minutes, 0.6 s for each, at 0.06 s an update, 10."""
    arguments = asked(path, "train.max_steps=50", "--methods", "lora", "--seeds", "1", "--json")
    assert call([*arguments, "--updates", "17"]) == 0
    assert {one["total"] for one in json.loads(capsys.readouterr().out)["trials"]["candidates"]} == {8}
    monkeypatch.setitem(worker.MODES, "pace", lambda config: worker.tell(pace=0.0599))
    assert call([*arguments, "--minutes", "0.02"]) == 0
    assert {one["total"] for one in json.loads(capsys.readouterr().out)["trials"]["candidates"]} == {10}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--updates", "5", "--minutes", "1"], "two budgets"),
        (["--updates", "5"], "too few to say"),
        (["--methods", "lroa"], "lroa"),
        (["--card", "RTX 1"], "no card is known"),
        (["stages=[{name: one, train: all, num_epochs: 1}]", "train.max_steps=null"], "has stages"),
    ],
)
def test_bad_input_is_one_message(
    path: Path, calls: list[Any], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(asked(path, *arguments)) == 2
    assert said in capsys.readouterr().err and not calls


def test_settings_name_all_that_a_variant_changes(tmp_path: Path) -> None:
    """The recipe's own method keeps its settings and rate; another has its own rate, and the base its bits."""
    config = configured(tmp_path)
    own = settings_of(config, read_variants("lora")[0])
    assert own == {"adapter": {"method": "lora", "rank": 4}}
    other = settings_of(config, read_variants("lora+model.quantization=nf4&bottleneck")[0])
    assert other["train"] == {"learning_rate": None} and other["model"] == {"quantization": "nf4"}
    assert [one["method"] for one in other["adapter"]] == ["lora", "bottleneck"]
