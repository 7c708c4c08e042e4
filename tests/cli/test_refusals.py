"""Whatever a user gets wrong ends in exit code 2 and one message that names the place and the fix; nothing is lost."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli.main import call
from tests.support.recipes import LABELS, recipe, sentiment_rows, write_rows

Change = Callable[[dict[str, Any], Path], None]


def at(*keys: str, value: Any) -> Change:
    """Set one value of the recipe."""

    def change(values: dict[str, Any], folder: Path) -> None:
        for key in keys[:-1]:
            values = values.setdefault(key, {})
        values[keys[-1]] = value

    return change


def data(text: str) -> Change:
    """Replace the data file's contents."""
    return lambda values, folder: (folder / "rows.jsonl").write_text(text) and None


def rows_with(row: dict[str, Any]) -> Change:
    return lambda values, folder: write_rows(folder / "rows.jsonl", [*sentiment_rows(60), row]) and None


CASES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "missing data file": (at("data", "train", value="./nowhere.jsonl"), ("nowhere.jsonl",)),
    "wrong column": (
        at("data", "train", value={"path": "./rows.jsonl", "prompt": "{promt}", "completion": "{completion}"}),
        ("promt", "prompt"),
    ),
    "empty file": (data(""), ("rows.jsonl", "no rows")),
    "broken JSON": (data('{"prompt": "a", "completion": "b"}\n{"prompt": \n'), ("rows.jsonl", "2")),
    "no rows left for training": (at("data", "split", value={"validation": 30, "test": 30}), ("train",)),
    "more held out than there is": (at("data", "split", value={"validation": 500}), ("validation",)),
    "unknown model folder": (at("model", value="./no-such-model"), ("no-such-model",)),
    "unknown hub name": (at("model", value="nobody/nothing"), ("nobody/nothing",)),
    "package that is not installed": (at("model", value="package:not_there/model.gguf"), ("not_there",)),
    "typo in a section": (at("train", "learning_rat", value=1), ("learning_rat", "learning_rate")),
    "typo in a section name": (at("trian", value={}), ("trian", "train")),
    "unknown method": (at("adapter", value="lorra"), ("lorra", "lora")),
    "targets that match nothing": (at("adapter", "targets", value=["qproj"]), ("qproj", "q_proj")),
    "target that is no choice": (at("evaluate", "choices", value=["negative", "neutral"]), ("positive", "choices")),
    "wrong type": (at("train", "batch_size", value="many"), ("batch_size", "many")),
    "contradiction": (at("train", "gradient_accumulation_steps", value=9), ("9", "batch_size")),
    "set that shrinks to nothing": (
        at("data", "render", value={"max_length": 4, "on_too_long": "drop", "max_dropped_share": 1.0}),
        ("max_length", "long"),
    ),
    "bad row": (rows_with({"prompt": ["x"], "completion": " positive"}), ("rows.jsonl:61", "prompt")),
    "unknown tracker": (at("trackers", value=["tensorbord"]), ("tensorboard",)),
}


def refused(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> str:
    """The message of a command that is refused."""
    assert call(arguments) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    assert "error:" in message or "Error" in message
    return message


@pytest.mark.parametrize("case", CASES)
def test_run_is_refused_with_cause_and_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    change, words = CASES[case]
    values = recipe(tmp_path, evaluate={"choices": list(LABELS)})
    change(values, tmp_path)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    message = refused(capsys, ["run", str(path)])
    for word in words:
        assert word in message
    assert "fix:" in message
    assert not (tmp_path / "runs").exists(), "a refused run leaves nothing behind"


def test_all_bad_rows_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three bad rows are three lines of one message, each with its line number."""
    values = recipe(tmp_path)
    rows = [
        *sentiment_rows(60),
        {"prompt": ["x"], "completion": "x"},
        {"prompt": "x"},
        {"prompt": "x", "completion": {}},
    ]
    write_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    message = refused(capsys, ["run", str(tmp_path / "recipe.yaml")])
    assert all(f"rows.jsonl:{line}" in message for line in (61, 62, 63))


@pytest.mark.parametrize("text", ["model: [", "- a\n- b\n", "model: a\nmodel: b\n", "", "\x00"])
def test_recipes_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    assert "recipe" in refused(capsys, ["run", str(path)])


def test_a_missing_recipe_names_its_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").touch()
    assert "mine.yaml" in refused(capsys, ["run", str(tmp_path / "mien.yaml")])


@pytest.mark.parametrize("command", ["resume", "report", "merge", "evaluate", "generate", "chat"])
def test_folders_that_are_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    extra = {"merge": [str(tmp_path / "out")], "generate": ["hello"]}.get(command, [])
    message = refused(capsys, [command, str(tmp_path / "nowhere"), *extra])
    assert "nowhere" in message and "fix:" in message
    assert not (tmp_path / "out").exists()


def test_an_existing_run_is_kept_without_force(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path, train={"max_steps": 1})))
    assert call(["run", str(path)]) == 0
    before = (tmp_path / "runs/run/evaluation.json").read_text()
    capsys.readouterr()
    assert "--force" in refused(capsys, ["run", str(path)])
    assert (tmp_path / "runs/run/evaluation.json").read_text() == before
    assert "complete" in refused(capsys, ["resume", str(tmp_path / "runs/run")])
    assert call(["run", str(path), "--force"]) == 0


def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first checkpoint finds the disk full: one message, and what was written before is whole."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path)))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("burnish.checkpoint.store.save_file", full)
    message = refused(capsys, ["run", str(path)])
    assert "No space left" in message and "free space" in message
    lines = (tmp_path / "runs/run/metrics.jsonl").read_text().splitlines()
    assert lines and all(json.loads(line) for line in lines)


def test_a_full_disk_at_the_first_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path)))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert "No space left" in refused(capsys, ["run", str(path)])


def test_merging_a_fully_tuned_run_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path, adapter="full", train={"max_steps": 1})))
    assert call(["run", str(path)]) == 0
    capsys.readouterr()
    assert "plain model folder already" in refused(capsys, ["merge", str(tmp_path / "runs/run"), str(tmp_path / "out")])


def test_wrong_usage_is_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run"]) == 2
    assert call(["rnu", "quickstart"]) == 2
    assert call(["generate", "x", "--temperature", "hot"]) == 2
    assert "Traceback" not in capsys.readouterr().err
