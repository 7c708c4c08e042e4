"""Every kind of file gives the same rows; what is broken is named by file and line."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from burnish.core.errors import UserError
from burnish.data.config import SourceConfig
from burnish.data.rows import Read, Row
from burnish.data.sources import open_source

ROWS = [{"prompt": 'ask, "this"\nand that', "completion": "ä 中 😀"}, {"prompt": "b", "completion": "c"}]


class Whole(Read):
    """What the first pass finds, and the rows of the second."""

    rows: list[Row]  # type: ignore[assignment]


def read_source(config: SourceConfig) -> Whole:
    opened = open_source(config)
    read = opened.scan()
    rows = list(opened.rows())
    assert len(rows) == read.rows
    read.rows = rows  # type: ignore[assignment]
    return read  # type: ignore[return-value]


def source(path: Path, **options: Any) -> SourceConfig:
    return SourceConfig.model_validate({"path": str(path), **options})


def as_json(path: Path) -> None:
    path.write_text(json.dumps(ROWS, indent=1), encoding="utf-8")


def as_jsonl(path: Path) -> None:
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in ROWS), encoding="utf-8")


def as_csv(path: Path, delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["prompt", "completion"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(ROWS)


def as_parquet(path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), path)


def as_bom(path: Path) -> None:
    as_csv(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())


def as_utf16(path: Path) -> None:
    as_jsonl(path)
    path.write_bytes(path.read_text(encoding="utf-8").encode("utf-16"))


def as_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in ROWS).encode()))


WRITERS = {
    "rows.json": as_json,
    "rows.jsonl": as_jsonl,
    "rows.csv": as_csv,
    "rows.tsv": lambda path: as_csv(path, "\t"),
    "rows.parquet": as_parquet,
    "bom.csv": as_bom,
    "utf16.jsonl": as_utf16,
    "rows.jsonl.gz": as_gzip,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    """Quotes, line ends inside a cell, letters beyond ASCII and emoji come through all of them."""
    path = tmp_path / name
    WRITERS[name](path)
    read = read_source(source(path))
    assert [dict(r.fields) for r in read.rows] == ROWS
    assert not read.bad.count
    assert len(read.files) == 1
    assert len(read.files[0].sha256 or "") == 64


def test_a_datasets_folder(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(tmp_path / "set"))
    assert [dict(r.fields) for r in read_source(source(tmp_path / "set")).rows] == ROWS


def test_folders_and_patterns_read_their_files_in_order(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        (tmp_path / name).write_text(json.dumps({"text": name}) + "\n")
    for path in (tmp_path, tmp_path / "*.jsonl"):
        assert [r.fields["text"] for r in read_source(source(path)).rows] == ["a.jsonl", "b.jsonl"]


@pytest.mark.parametrize(
    ("rows", "texts"),
    [("line", ["one", "two", "three"]), ("paragraph", ["one\ntwo", "three"]), ("file", ["one\ntwo\n\nthree\n"])],
)
def test_text_files(tmp_path: Path, rows: str, texts: list[str]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n")
    assert [r.fields["text"].strip() for r in read_source(source(path, txt_rows=rows)).rows] == [
        t.strip() for t in texts
    ]


def test_rows_know_their_lines(tmp_path: Path) -> None:
    """The first CSV row covers lines 2 and 3, so the second begins on line 4."""
    as_csv(tmp_path / "rows.csv")
    assert [r.line for r in read_source(source(tmp_path / "rows.csv")).rows] == [2, 4]


def test_bad_bytes_are_refused_or_counted(tmp_path: Path) -> None:
    """Two bad sequences in line 3: `\\xff`, and a two-byte letter that is cut."""
    path = tmp_path / "rows.csv"
    path.write_bytes(b"prompt,completion\na,b\nbad \xff here,and \xc3 there\n")
    with pytest.raises(UserError, match="3") as caught:
        read_source(source(path))
    assert "replace" in caught.value.fix and str(path) in caught.value.where
    read = read_source(source(path, on_bad_bytes="replace"))
    assert read.files[0].bad_bytes == 2
    assert read.rows[1].fields == {"prompt": "bad \ufffd here", "completion": "and \ufffd there"}


def test_another_encoding(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"text": "naïve"}\n'.encode("cp1252"))
    assert read_source(source(path, encoding="cp1252")).rows[0].fields["text"] == "naïve"


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("a.jsonl", '{"text": "a"}\n{"text": \n{"text": "c"}\n', 2),
        ("a.jsonl", '{"text": "a"}\n[1]\n', 2),
        ("a.csv", "a,b\n1,2\n1,2,3\n", 3),
        ("a.csv", "a,b\n1,2\n1\n", 3),
    ],
)
def test_broken_lines_are_collected(tmp_path: Path, name: str, text: str, line: int) -> None:
    (tmp_path / name).write_text(text)
    assert [b.line for b in read_source(source(tmp_path / name)).bad.first] == [line]


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("a.json", '[{"a": 1}, {"a": ]', "valid JSON"),
        ("a.json", '"text"', "not a JSON list"),
        ("a.csv", "a,a\n1,2\n", "twice"),
        ("a.parquet", "no parquet", "no readable Parquet"),
        ("a.jsonl", "", "no rows"),
        ("a.csv", "a,b\n", "no rows"),
        ("a.docx", "x", "no reader"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, name: str, text: str, what: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=what) as caught:
        read_source(source(tmp_path / name))
    assert caught.value.fix and str(tmp_path) in caught.value.where


def test_missing_files_name_their_neighbours(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(UserError) as caught:
        read_source(source(tmp_path / "row.jsonl"))
    assert "rows.jsonl" in caught.value.fix
    with pytest.raises(UserError, match="no file matches"):
        read_source(source(tmp_path / "*.csv"))


def test_limit(tmp_path: Path) -> None:
    as_jsonl(tmp_path / "rows.jsonl")
    assert len(read_source(source(tmp_path / "rows.jsonl", limit=1)).rows) == 1


def test_a_hub_name_without_a_network_says_what_was_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match="nobody/nothing"):
        read_source(SourceConfig(path="nobody/nothing"))
