"""Data need: its sizes and lengths, the rows that everything is scored on, and the whole of it on a tiny model."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli.main import call
from burnish.compare import run
from burnish.compare.data_need import PAGE, RESULTS, NeedWanted, arm, data_need, length_words, settled_sizes
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.tasks import read_data
from tests.support.recipes import LABELS, configured, recipe

SIZES = (4, 8, 12, 16, 32)


def config_of(folder: Path, **sections: Any) -> RunConfig:
    given = {"evaluate": {"choices": list(LABELS)}, "train": {"max_steps": None, "num_epochs": 1}, **sections}
    return configured(folder, **given)


def test_sizes_and_lengths(tmp_path: Path) -> None:
    """36 training rows make 2, 4, 9, 18 and 36. 8 rows a batch: 4 updates of at least 4 take 8 passes over 4 rows,
    4 * 8 / 4, each of one update; 36 rows have 5 updates in their one pass."""
    wanted = NeedWanted(config_of(tmp_path), tmp_path / "out", least_updates=4)
    assert settled_sizes(wanted) == [2, 4, 9, 18, 36]
    assert arm(wanted.config, 4, 4).overrides == ("data.train_rows=4", "train.num_epochs=8")
    assert arm(wanted.config, 36, 4).overrides == ("data.train_rows=36", "train.num_epochs=1")
    assert length_words(wanted, 4) == "8 passes, 8 updates" and length_words(wanted, 36) == "1 passes, 5 updates"
    fixed = config_of(tmp_path / "b", train={"max_steps": 6})
    assert arm(fixed, 4, 4).overrides == ("data.train_rows=4",)
    assert length_words(NeedWanted(fixed, tmp_path), 4) == "6 updates"
    limited = config_of(tmp_path / "c", data={"train_rows": 32})
    assert settled_sizes(NeedWanted(limited, tmp_path)) == [2, 4, 8, 16, 32]
    with pytest.raises(UserError, match="too few for a curve"):
        settled_sizes(NeedWanted(limited, tmp_path, sizes=(8, 16, 32)))


def test_growing_parts_of_a_tiny_task(
    tmp_path: Path, calls: list[tuple[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Five sizes on one set of held-out rows, none of which is trained on; smaller parts are nested in
    larger ones; the second call, and the command line, train nothing; a new question costs nothing."""
    wanted = NeedWanted(config_of(tmp_path), tmp_path / "out", SIZES, 1, 2, targets=(0.99,))
    found = data_need(wanted)
    assert len(calls) == 5 and {mode for mode, _ in calls} == {"score"}
    assert {n: len(v) for n, v in found.values.items()} == dict.fromkeys(SIZES, 1)
    assert found.rows == 12 and found.split == "test" and found.metric == "macro_f1" and found.curve is not None
    folders = [RunFolder(tmp_path / f"out/runs/{n}-rows-seed0") for n in SIZES]
    held_out = [{row["id"] for row in folder.read_rows("predictions.jsonl")} for folder in folders]
    assert all(ids == held_out[0] for ids in held_out) and len(held_out[0]) == 12
    trained = [set(read_data(build(RunConfig, folder.read_recipe())).train.ids) for folder in folders]
    assert [len(ids) for ids in trained] == list(SIZES) and not any(ids & held_out[0] for ids in trained)
    assert all(smaller < larger for smaller, larger in pairwise(trained))
    assert len(found.answers) == 2
    written = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert [one["rows"] for one in written["sizes"]] == list(SIZES) and written["curve"]["held_out"]
    page = (tmp_path / "out" / PAGE).read_text()
    assert "<svg" in page and "none of them is trained on" in page and found.answers[0].words[1:20] in page
    calls.clear()
    again = data_need(NeedWanted(wanted.config, wanted.output, SIZES, 1, 2, targets=(0.5, 0.6)))
    assert calls == [] and again.values == found.values and len(again.answers) == 3

    values = recipe(tmp_path, evaluate={"choices": list(LABELS)}, train={"max_steps": None, "num_epochs": 1})
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
    command = ["data-need", str(tmp_path / "recipe.yaml"), "--sizes", ",".join(map(str, SIZES)), "--seeds", "1"]
    command += ["--least-updates", "2", "--target", "0.9", "--output", str(tmp_path / "out")]
    assert call(command) == 0
    told = capsys.readouterr()
    assert "trained for" in told.out and "data-need.html" in told.out and "done before" in told.err
    assert call([*command, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["sizes"]) == 5 and calls == []


def test_more_rows_than_there_are(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """36 rows are left to train on, so that 64 of them cannot be asked; nothing is trained."""
    with pytest.raises(UserError, match="there are 36 training rows, and a size of 64 was asked"):
        data_need(NeedWanted(config_of(tmp_path), tmp_path / "out", (4, 8, 16, 32, 64), 1, 1))
    assert calls == []


def test_a_size_that_fails_is_told(
    tmp_path: Path, calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one of the sizes no curve is drawn, and the reason is shown."""
    here = run.call

    def failing(mode: str, values: Any, heard: Any = None, **options: Any) -> dict[str, Any]:
        if values["name"] == "8-rows-seed0":
            return {"failed": {"what": "memory ran out", "where": "", "fix": ""}}
        return here(mode, values, heard, **options)

    monkeypatch.setattr(run, "call", failing)
    config = config_of(tmp_path, train={"max_steps": 1})
    found = data_need(NeedWanted(config, tmp_path / "out", (4, 8, 12, 16, 32), 1))
    assert found.failed == {"8 rows": "memory ran out"} and found.curve is None and not found.answers
    assert "memory ran out" in (tmp_path / "out" / PAGE).read_text()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sizes", "1,2,3"], "too few for a curve"),
        (["--target", "much"], "is no number"),
        (["--sizes", "4,8,16,32,640"], "there are 36 training rows"),
    ],
)
def test_what_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str) -> None:
    """One message and exit code 2."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path)))
    assert call(["data-need", str(tmp_path / "recipe.yaml"), *options, "--output", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_the_page_of_a_range_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`burnish lr-range --html` draws the loss against the rate; a test that comes to its end is no error."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path)))
    command = ["lr-range", str(tmp_path / "recipe.yaml"), "--updates", "20", "--html", str(tmp_path / "page.html")]
    assert call([*command, "--from", "1e-4", "--to", "1e-2"]) == 0
    assert "the range ended" in capsys.readouterr().out
    page = (tmp_path / "page.html").read_text()
    assert "<svg" in page and "smoothed" in page and "recipe" in page
