"""Files are whole or absent, and a full disk is one message."""

from __future__ import annotations

import errno
import hashlib
import json
import math
from pathlib import Path

import pytest

from burnish.core.errors import UserError
from burnish.core.files import append_line, finite, read_lines, sha256, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left") as caught:
        write_atomic(path, "new")
    assert caught.value.where == str(path) and "free space" in caught.value.fix
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        write_atomic(tmp_path / "file" / "below", "x")


def test_lines_survive_a_torn_one(tmp_path: Path) -> None:
    """A crash cut the second line; the third is appended on a line of its own and is read."""
    path = tmp_path / "log.jsonl"
    append_line(path, {"n": 1})
    with path.open("a") as file:
        file.write('{"n": 2, "te')
    assert read_lines(path) == [{"n": 1}]
    append_line(path, {"n": 3})
    assert read_lines(path) == [{"n": 1}, {"n": 3}]


def test_texts_with_odd_line_ends_stay_one_line(tmp_path: Path) -> None:
    """U+2028 and U+0085 end a line for `str.splitlines`, but not in JSONL."""
    path = tmp_path / "log.jsonl"
    append_line(path, {"text": "a\u2028b\u0085c\nd"})
    assert read_lines(path) == [{"text": "a\u2028b\u0085c\nd"}]


def test_json_has_no_word_for_nan(tmp_path: Path) -> None:
    value = {"a": math.nan, "b": [math.inf, 1.5, (-math.inf,)], "c": {"d": 0.0}}
    assert finite(value) == {"a": None, "b": [None, 1.5, [None]], "c": {"d": 0.0}}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text()) == finite(value)


def test_sha256(tmp_path: Path) -> None:
    data = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(data)
    assert sha256(tmp_path / "a") == hashlib.sha256(data).hexdigest()
