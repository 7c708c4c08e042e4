"""What becomes of new rows: made of training rows only, traceable, without copies, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from burnish.cli.main import call
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.files import read_lines
from burnish.data.augmenting import Count, Growth, Source, Variant, entry_names
from burnish.data.config import DataConfig
from burnish.data.duplicates import hashes_of
from burnish.data.example import Example
from tests.augment.common import augmented, method
from tests.support.recipes import recipe, write_rows

KINDS = [{"kind": "delete", "copies": 2, "rate": 0.3}, "swap", {"kind": "swap", "seed": 5}, "spelling"]


def rows(count: int = 40) -> list[dict[str, Any]]:
    words = ["morning", "plane", "window", "garden", "kitchen", "yellow", "river", "mountain", "paper", "coffee"]
    return [
        {"text": " ".join(words[(i + j) % 10] for j in range(7)) + f" {i}", "label": "ab"[i % 2]} for i in range(count)
    ]


class Fixed:
    """A method that answers what it is told to."""

    def __init__(self, answers: dict[str, list[str]], **config: Any) -> None:
        self.name, self.seed, self.answers = "swap", 3, answers
        self.config = method({"kind": "swap", **config}).config

    def fingerprint(self) -> Any:
        return None

    def variants(self, given: list[Source]) -> list[list[Variant]]:
        return [[Variant(text) for text in self.answers[row.text]] for row in given]


def grown(answers: dict[str, list[str]], held_out: list[str], **config: Any) -> tuple[list[Example], Count]:
    growth = Growth([Fixed(answers, **config)])
    train = [Example(f"rows.jsonl:{i}", prompt=text, completion="a") for i, text in enumerate(answers, 1)]
    taken = [e.prompt_key for e in train] + [Example("", prompt=text).prompt_key for text in held_out]
    return growth.run(train, hashes_of(taken)), growth.counts["swap"]


def test_what_adds_nothing_is_dropped_and_counted() -> None:
    """Of six texts one equals its source but for spaces, one another training row, one a held-out row, one is made
    twice: two are left. Two copies of each of three rows were asked for and six found."""
    answers = {"x y": ["x  y", "y x"], "p q": ["x y", "held out"], "m n": ["n m", "n m"]}
    made, count = grown(answers, ["held out"], copies=2)
    assert [e.prompt for e in made] == ["y x", "n m"]
    assert (count.unchanged, count.copies, count.none, count.sources) == (1, 3, 0, 3)


def test_a_new_row_says_where_it_comes_from() -> None:
    (made, *_), _ = grown({"x y": ["y x"]}, [])
    assert made.id == "swap.1 of rows.jsonl:1" and made.completion == "a"
    trace = made.fields["augmented"]
    assert {k: trace[k] for k in ("source", "kind", "seed", "before", "after")} == {
        "source": "rows.jsonl:1", "kind": "swap", "seed": 3, "before": "x y", "after": "y x",
    }  # fmt: skip


def test_only_training_rows_grow_and_labels_stay(tmp_path: Path) -> None:
    """The held-out tables are those without augmentation, every source is a training row, its class is the new row's,
    and no new text is held out."""
    plain, more = augmented(tmp_path, rows(), []), augmented(tmp_path, rows(), KINDS)
    for split in ("validation", "test"):
        assert plain.table(split).content_hash() == more.table(split).content_hash()
    trained = {e.id: e for e in plain.examples["train"]}
    held_out = {e.prompt for s in ("validation", "test") for e in more.examples[s]}
    assert len(more.augmented) == len(more.train) - len(plain.train) > 80
    labels = more.renderer.labels  # type: ignore[attr-defined]
    for example, number in zip(more.augmented, more.train.labels[len(plain.train) :], strict=True):
        source = trained[example.fields["augmented"]["source"]]
        assert source.completion == example.completion == labels[number] and example.prompt not in held_out
    assert len({e.prompt for e in more.augmented}) == len(more.augmented)


def test_examples_stand_in_the_order_of_the_table(tmp_path: Path) -> None:
    """Those that are read again and the new ones, one by one, as a slice, and from the end."""
    found = augmented(tmp_path, rows(), KINDS)
    examples = found.examples["train"]
    assert [e.id for e in examples] == list(found.train.ids) and len(examples) == len(found.train)
    assert examples[-1].id == found.augmented[-1].id and [e.id for e in examples[:3]] == list(found.train.ids[:3])


def test_the_seed_decides_and_chunks_do_not(tmp_path: Path) -> None:
    """Equal settings give equal tables whatever number of rows is held at a time; another seed gives others."""
    first, second, small = (augmented(tmp_path, rows(), KINDS, chunk=c) for c in (1024, 1024, 7))
    assert first.train.content_hash() == second.train.content_hash() == small.train.content_hash()
    kinds = [{"kind": k, "seed": 9} for k in ("delete", "swap", "spelling")]
    assert augmented(tmp_path, rows(), kinds).train.content_hash() != first.train.content_hash()


def test_a_share_of_the_rows_is_drawn(tmp_path: Path) -> None:
    """Of 200 - 12 rows a quarter is 47; a binomial draw lies within five standard deviations, 47 ± 30."""
    found = augmented(tmp_path, rows(200), [{"kind": "swap", "share": 0.25}])
    assert 17 < found.summary["augment"]["kinds"][0]["sources"] < 77


def test_a_column_of_a_prompt_is_changed_and_the_template_is_not(tmp_path: Path) -> None:
    """Also in a run that learns text; the rest of the prompt is as it was."""
    given = [{"text": r["text"], "label": r["label"]} for r in rows(30)]
    path = write_rows(tmp_path / "rows.jsonl", given)
    source = {"path": str(path), "prompt": "Tell: {text}\nIs:", "completion": " {label}"}
    values = recipe(tmp_path, data={"train": source, "augment": [{"kind": "swap", "column": "text"}]})
    write_rows(tmp_path / "rows.jsonl", given)
    (tmp_path / "r.yaml").write_text(json.dumps(values))
    assert call(["run", str(tmp_path / "r.yaml")]) == 0
    new = read_lines(tmp_path / "runs/run/augmented.jsonl")
    data = json.loads((tmp_path / "runs/run/data.json").read_text())
    assert data["augment"]["added"] == len(new) == data["splits"]["train"]["rows"] - 6 > 0
    assert data["augment"]["rows"][0]["before"] in {r["text"] for r in given} and "Tell" not in new[0]["after"]
    assert any(f["code"] == "data.augmented" for f in read_lines(tmp_path / "runs/run/findings.jsonl"))


def test_inspect_shows_sources_beside_new_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = recipe(tmp_path, data={"augment": [{"kind": "swap"}]})
    (tmp_path / "r.yaml").write_text(json.dumps(values))
    assert call(["inspect", str(tmp_path / "r.yaml")]) == 0
    shown = capsys.readouterr().out
    assert "New training rows" in shown and "swap.1 of rows.jsonl:" in shown and "was  " in shown


def test_what_cannot_be_augmented_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no column `txt`"):
        augmented(tmp_path, rows(), [{"kind": "swap", "column": "txt"}])
    with pytest.raises(UserError, match="there is no `swop`"):
        build(DataConfig, {"train": "x", "augment": ["swop"]})
    with pytest.raises(UserError, match="need a `model`"):
        build(DataConfig, {"train": "x", "augment": ["synonyms"]})
    growth = Growth([method({"kind": "swap"})])
    talk = Example("a:1", messages=({"role": "user", "content": "x"},))
    with pytest.raises(UserError, match="conversation or plain text"):
        growth.run([talk], hashes_of([]))


def test_a_kind_that_adds_nothing_is_a_warning(tmp_path: Path) -> None:
    found = augmented(tmp_path, [{"text": f"{i}", "label": "ab"[i % 2]} for i in range(30)], ["swap"])
    assert [f.severity for f in found.findings if f.code == "data.augmented-nothing"] == ["warning"]


def test_entries_of_one_kind_are_numbered() -> None:
    config = build(DataConfig, {"train": "x", "augment": ["swap", "delete", "swap"]})
    assert entry_names(config.augment) == ["swap", "delete", "swap-2"]


def test_a_cache_holds_the_new_rows_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tables on the disk, the second time everything is read back; other kinds are made anew."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    first, second = (augmented(tmp_path, rows(), KINDS, in_memory=1) for _ in range(2))
    assert any(f.code == "data.from-cache" for f in second.findings)
    assert list(first.augmented) == list(second.augmented) and len(second.examples["train"]) == len(second.train)
    other = augmented(tmp_path, rows(), KINDS[:2], in_memory=1)
    assert not any(f.code == "data.from-cache" for f in other.findings) and len(other.train) < len(first.train)
