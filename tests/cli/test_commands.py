"""Every command on a tiny model, through the entry point that the shell calls."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from burnish.cli.main import call
from tests.support.recipes import LABELS, recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a recipe and its finished run, which the tests only read."""
    folder = tmp_path_factory.mktemp("cli")
    values = recipe(folder, evaluate={"choices": list(LABELS)})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    assert call(["run", str(folder / "recipe.yaml")]) == 0
    return folder


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_run_ends_with_a_report_and_a_summary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["run", str(folder / "recipe.yaml"), "name=second", "train.max_steps=2"]) == 0
    shown = capsys.readouterr()
    assert (folder / "runs/second/report.html").is_file()
    assert "accuracy" in shown.out.lower() and "report.html" in shown.out
    assert "\x1b" not in shown.out + shown.err, "colours where there is no terminal"
    assert "training: 2 updates" in shown.err


def test_json_is_one_object_per_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two updates give two `stepped` events; the last line is the result."""
    assert call(["run", str(folder / "recipe.yaml"), "name=third", "train.max_steps=2", "--json"]) == 0
    events = lines(capsys.readouterr().out)
    assert [e["event"] for e in events].count("stepped") == 2
    assert events[-1]["event"] == "result" and events[-1]["reason"] == "completed"


def test_overrides_reach_the_run(folder: Path) -> None:
    arguments = ["name=fourth", "train.learning_rate=1e-4", "adapter.rank=2", "train.max_steps=1"]
    assert call(["run", str(folder / "recipe.yaml"), *arguments]) == 0
    resolved = yaml.safe_load((folder / "runs/fourth/recipe.yaml").read_text())
    assert resolved["train"]["learning_rate"] == 1e-4 and resolved["adapter"]["rank"] == 2


def test_inspect_marks_what_is_trained(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["inspect", str(folder / "recipe.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "Classify the sentiment" in shown and any(f"⟦ {label}" in shown for label in LABELS)
    assert call(["inspect", str(folder / "recipe.yaml"), "--json"]) == 0
    json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("target", ["run", "recipe"])
def test_evaluate(folder: Path, capsys: pytest.CaptureFixture[str], target: str) -> None:
    """The tuned model of the run, and the recipe's untouched model: the same numbers as in the run's evaluation."""
    path = folder / "runs/run" if target == "run" else folder / "recipe.yaml"
    assert call(["evaluate", str(path), "--json", "--predictions", str(folder / f"{target}.jsonl")]) == 0
    found = json.loads(capsys.readouterr().out)
    stored = json.loads((folder / "runs/run/evaluation.json").read_text())
    expected = stored["tuned" if target == "run" else "base"]["metrics"]
    for name in ("loss", "accuracy", "macro_f1"):
        assert found["model"]["metrics"][name]["value"] == pytest.approx(expected[name]["value"], rel=1e-5)
    assert len(lines((folder / f"{target}.jsonl").read_text())) == 12


def test_evaluate_shows_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["evaluate", str(folder / "runs/run"), "--split", "validation"]) == 0
    assert "accuracy" in capsys.readouterr().out.lower()


def test_generate(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prompts on the command line are two answers; the same from standard input."""
    prompts = ["Classify the sentiment: day!\\nSentiment:", "news"]
    assert call(["generate", str(folder / "runs/run"), *prompts, "--max-new-tokens", "3", "--json"]) == 0
    answers = lines(capsys.readouterr().out)
    assert len(answers) == 2 and answers[0]["prompt"].count("\n") == 1 and answers[0]["tokens"] <= 3
    monkeypatch.setattr("sys.stdin", io.StringIO("news\n"))
    assert call(["generate", str(folder / "runs/run"), "--max-new-tokens", "3", "--json"]) == 0
    assert lines(capsys.readouterr().out)[0]["text"] == answers[1]["text"]


def test_chat(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n/new\n/quit\n"))
    assert call(["chat", str(folder / "runs/run"), "--max-new-tokens", "3"]) == 0
    assert "Traceback" not in capsys.readouterr().err


def test_merge(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call(["merge", str(folder / "runs/run"), str(tmp_path / "merged"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["difference"] < 1e-3 < report["effect"] and 0 <= report["kl"] < 1e-6
    assert report["after"]["loss"] == pytest.approx(report["before"]["loss"], abs=1e-5)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert model(torch.arange(4, 14)[None]).logits.isfinite().all()


def test_verify(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["verify", str(folder / "runs/run")]) == 0
    shown = capsys.readouterr().out
    assert "equal in every bit" in shown and "largest difference" in shown
    weights = folder / "runs/run/final/adapter_model.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes(whole[:-4] + b"\0\0\x80\x3f")  # the last number is 1.0 now
        assert call(["verify", str(folder / "runs/run")]) == 3
        assert "1 of" in capsys.readouterr().out
    finally:
        weights.write_bytes(whole)


def test_verify_export(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run, merged = str(folder / "runs/run"), str(tmp_path / "merged")
    assert call(["merge", run, merged]) == 0
    assert call(["verify-export", run, merged]) == 0
    shown = capsys.readouterr().out
    assert "same" in shown
    template = tmp_path / "merged/chat_template.jinja"
    template.write_text("changed" + template.read_text())
    assert call(["verify-export", run, merged]) == 3


def test_report_is_written_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = folder / "runs/run/report.html"
    page.unlink()
    assert call(["report", str(folder / "runs/run")]) == 0
    assert page.is_file() and "report.html" in capsys.readouterr().out


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "torch" in shown and "transformers" in shown
    assert call(["doctor", "--json"]) == 0
    json.loads(capsys.readouterr().out)


def test_a_reader_that_has_seen_enough() -> None:
    """`burnish ... | head`: the pipe closes before the output ends; typer leaves quietly, with its exit code 1."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-c", "from burnish.cli.main import main; main(['--help'])"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert done.returncode == 1 and not done.stderr


def test_version_and_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["--version"]) == 0
    assert capsys.readouterr().out.startswith("burnish 0.")
    call([])
    shown = capsys.readouterr()
    assert "Commands" in shown.out + shown.err
