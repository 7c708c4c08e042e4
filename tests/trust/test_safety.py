"""Nothing that a user is given can run code, fill the memory, leave its folder or carry secrets away."""

from __future__ import annotations

import ast
import gzip
import json
import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

import burnish
from burnish.cli.main import call
from burnish.core.config import read_yaml
from burnish.core.errors import UserError
from burnish.train.run import start_run
from tests.support.recipes import configured, recipe, save_tiny
from tests.support.tiny import tiny_tokenizer

SOURCES = sorted(Path(burnish.__file__).parent.rglob("*.py"))


class Evil:
    """Unpickling this makes the file ``ran``."""

    def __init__(self, ran: Path) -> None:
        self.ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.ran),))


def refused(folder: Path, capsys: pytest.CaptureFixture[str], **sections: Any) -> str:
    """What the command line says of a recipe; it must refuse it with exit code 2 and leave no run behind."""
    path = folder / "recipe.yaml"
    values = recipe(folder, **{k: v for k, v in sections.items() if k != "model"})
    path.write_text(yaml.safe_dump({**values, **({"model": sections["model"]} if "model" in sections else {})}))
    capsys.readouterr()
    assert call(["run", str(path)]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" not in shown and not (folder / "runs").exists()
    return shown


@pytest.mark.parametrize("allowed", [False, True])
def test_a_malicious_pickle(tmp_path: Path, capsys: pytest.CaptureFixture[str], allowed: bool) -> None:
    """As weights of a model: refused without a word in the recipe, and never executed even with it."""
    weights = save_tiny(tmp_path / "evil") / "pytorch_model.bin"
    (tmp_path / "evil/model.safetensors").unlink()
    weights.write_bytes(pickle.dumps(Evil(tmp_path / "ran")))
    model = {"path": str(tmp_path / "evil"), **({"allow_pickle": True} if allowed else {})}
    shown = refused(tmp_path, capsys, model=model)
    assert ("pickle" in shown.lower()) and not (tmp_path / "ran").exists()


def test_no_file_of_a_run_is_a_pickle(tmp_path: Path) -> None:
    folder = start_run(configured(tmp_path)).folder
    suffixes = {path.suffix for path in folder.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".jsonl", ".safetensors", ".yaml", ".jinja", ".html", ".txt"}


FORBIDDEN = re.compile(
    r"^(eval|exec|compile|__import__|os\.system|os\.popen|torch\.(load|save)|(pickle|marshal|shelve|dill|joblib)\..*)$"
)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_no_source_runs_text_reads_pickles_or_calls_a_shell(source: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(source.read_text())) if isinstance(node, ast.Call)]
    assert not [ast.unparse(c) for c in calls if FORBIDDEN.match(ast.unparse(c.func))]
    assert not [ast.unparse(c) for c in calls for k in c.keywords if k.arg == "shell"]


def test_a_zip_bomb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Half a gigabyte of spaces in half a megabyte: refused before it is all in memory."""
    bomb = tmp_path / "rows.jsonl.gz"
    with gzip.open(bomb, "wb", compresslevel=9) as file:
        for _ in range(512):
            file.write(b" " * (1 << 20))
    assert bomb.stat().st_size < 1 << 20
    assert "unpacks to more than" in refused(tmp_path, capsys, data={"train": str(bomb), "split": {"validation": 2}})


CLIMBING = ("package:burnish/../../secret.csv", "package:burnish//etc/passwd", "package:../x/y.csv")


@pytest.mark.parametrize("path", CLIMBING)
def test_a_path_that_climbs_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    refused(tmp_path, capsys, data={"train": path, "split": {"validation": 2}})


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "a/../../b", ".", ".."])
def test_a_run_name_that_climbs_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert "name" in refused(tmp_path, capsys, name=name)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages[0]['content'] }}",
        "{{ cycler.__init__.__globals__.os.mkdir('RAN') }}{{ messages[0]['content'] }}",
        "{% for x in messages.__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    ],
)
def test_a_chat_template_that_leaves_its_sandbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], template: str
) -> None:
    """The published ways out of a template engine: each ends in a refusal, and nothing is executed."""
    values = recipe(tmp_path, data={"render": {"chat": "always"}})
    tiny_tokenizer(chat_template=template.replace("RAN", str(tmp_path / "ran"))).save_pretrained(tmp_path / "model")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    assert call(["run", str(path)]) == 2
    assert "Traceback" not in capsys.readouterr().err and not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.mkdir [RAN]",
        "a: !!python/object/new:os.mkdir [RAN]",
        "a: !!python/name:os.system",
        "a: !!python/module:os",
        "a: &a [*a]",
        "a: &a {b: *a}",
    ],
)
def test_yaml_that_builds_objects_or_holds_itself(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text.replace("RAN", str(tmp_path / "ran")))
    with pytest.raises(UserError, match="not valid YAML"):
        read_yaml(path)
    assert not (tmp_path / "ran").exists()


def test_a_billion_laughs(tmp_path: Path) -> None:
    """Nine levels of nine aliases each stand for 9^9 = 387,420,489 values in 500 bytes; refused at once."""
    lines = ["a0: &a0 [lol]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(lines))
    began = time.monotonic()
    with pytest.raises(UserError, match="aliases unfold"):
        read_yaml(path)
    assert time.monotonic() - began < 5
    path.write_text("base: &base {x: 1}\nother: {<<: *base, y: 2}\n")
    assert read_yaml(path)["other"] == {"x": 1, "y": 2}


def test_secrets_stay_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No value of an environment variable that names a secret reaches a file of the run."""
    for name in ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(name, f"secret-of-{name}")
    folder = burnish.run(configured(tmp_path)).folder
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"secret-of-" not in path.read_bytes(), path.name


def test_a_page_escapes_what_data_and_names_contain(tmp_path: Path) -> None:
    """A prompt with a script in it is text on the page; the one script there is the page's own."""
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    values = recipe(tmp_path)
    rows = [{"prompt": f"{hostile} {i}", "completion": f" {hostile}"} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = burnish.run(values).report.read_text()
    assert "alert(1)" in page and "<script>alert" not in page and "<img" not in page
    assert page.count("<script") == 1


def test_weights_that_are_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A safetensors header that promises more than the file holds is refused, not filled up."""
    weights = save_tiny(tmp_path / "cut") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-64])
    assert "model cannot be loaded" in refused(tmp_path, capsys, model=str(tmp_path / "cut"))
