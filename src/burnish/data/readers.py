"""Readers of data files, one per kind, found by the file's suffix."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from burnish.core.errors import UserError
from burnish.core.files import sha256
from burnish.data.config import SourceConfig
from burnish.data.decode import Decoded, read_text
from burnish.data.rows import BadRow, Read, ReadFile, Row, describe

_LARGEST_CELL = 1 << 30
_CELL_LIMIT_LOCK = threading.Lock()

Reader = Callable[[Path, SourceConfig], Read]


def read_file(path: Path, source: SourceConfig) -> Read:
    """Read one data file by its suffix.

    Raises:
        UserError: The suffix is unknown, or the file as a whole cannot be read. Single bad rows are returned.
    """
    return READERS[kind_of(path)](path, source)


def kind_of(path: Path) -> str:
    """The suffix that decides the reader, without the dot and without `.gz`; empty if no reader knows it."""
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix.removeprefix(".")
    return suffix if suffix in READERS else ""


def _read_json(path: Path, source: SourceConfig) -> Read:
    decoded = _decode(path, source)
    text = decoded.text
    start = _skip_space(text, 0)
    if start < len(text) and text[start] == "{":
        return _read_json_object(path, source, decoded, start)
    if start >= len(text) or text[start] != "[":
        raise UserError("the file is not a JSON list of rows", where=f"{path}:1", fix="write `[{…}, {…}]`, or .jsonl")
    return _finish(path, decoded, *_json_list(text, start, path))


def _read_json_object(path: Path, source: SourceConfig, decoded: Decoded, start: int) -> Read:
    """A top-level object: JSON lines under the wrong suffix, one row, or a wrapper around one list of rows."""
    text = decoded.text
    value, end = _one_value(text, start, path)
    if _skip_space(text, end) < len(text):
        return _read_jsonl(path, source)
    lists = [k for k, v in value.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
    if len(lists) == 1 and not {"messages", "conversations"} & set(lists):
        inner = re.compile(rf"{re.escape(json.dumps(lists[0], ensure_ascii=False))}\s*:\s*").search(text, start)
        if inner:
            return _finish(path, decoded, *_json_list(text, inner.end(), path))
    return _finish(path, decoded, [Row(value, str(path), 1)], [])


def _json_list(text: str, start: int, path: Path) -> tuple[list[Row], list[BadRow]]:
    """The elements of a JSON list, read one by one so that each row knows its line."""
    rows: list[Row] = []
    bad: list[BadRow] = []
    position, line, counted = _skip_space(text, start + 1), 1, 0
    if text[position : position + 1] == "]":
        return rows, bad
    while True:
        line += text.count("\n", counted, position)
        counted = position
        value, end = _one_value(text, position, path)
        if isinstance(value, dict):
            rows.append(Row(value, str(path), line))
        else:
            bad.append(BadRow(str(path), line, "(row)", "an object", describe(value)))
        end = _skip_space(text, end)
        mark = text[end : end + 1]
        if mark == "]":
            return rows, bad
        if mark != ",":
            line += text.count("\n", counted, end)
            raise UserError("the JSON list is broken: `,` or `]` expected", where=f"{path}:{line}", fix="mend the line")
        position = _skip_space(text, end + 1)


def _one_value(text: str, position: int, path: Path) -> tuple[Any, int]:
    try:
        return json.JSONDecoder().raw_decode(text, position)
    except (ValueError, RecursionError) as error:
        at = getattr(error, "pos", position)
        column = at - text.rfind("\n", 0, at)
        where = f"{path}:{text.count(chr(10), 0, at) + 1}:{column}"
        raise UserError(f"the file is not valid JSON: {_reason(error)}", where=where, fix="mend the line") from None


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position] in " \t\r\n":
        position += 1
    return position


def _read_jsonl(path: Path, source: SourceConfig) -> Read:
    decoded = _decode(path, source)
    rows: list[Row] = []
    bad: list[BadRow] = []
    for number, line in enumerate(decoded.text.split("\n"), 1):  # splitlines() would also split at U+2028 inside a text
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            bad.append(BadRow(str(path), number, "(line)", "one JSON object", _reason(error), "mend the line"))
            continue
        if isinstance(value, dict):
            rows.append(Row(value, str(path), number))
        else:
            bad.append(BadRow(str(path), number, "(line)", "one JSON object", describe(value)))
    return _finish(path, decoded, rows, bad)


def _reason(error: Exception) -> str:
    return "nesting too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))


def _read_csv(path: Path, source: SourceConfig) -> Read:
    decoded = _decode(path, source)
    delimiter = "\t" if kind_of(path) == "tsv" else ","
    first = decoded.text.split("\n", 1)[0]
    notes: list[str] = []
    if delimiter not in first:
        others = [d for d in ";\t|" if d in first]
        if len(others) == 1:
            delimiter = others[0]
            notes.append(f"{path}: the columns are separated by {delimiter!r}")
    with _large_cells():
        rows, bad = _csv_rows(decoded.text, delimiter, path)
    return replace(_finish(path, decoded, rows, bad), notes=notes)


def _csv_rows(text: str, delimiter: str, path: Path) -> tuple[list[Row], list[BadRow]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    bad: list[BadRow] = []
    header: list[str] | None = None
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            bad.append(BadRow(str(path), start, "(line)", "well-formed cells", str(error), "check its quotes"))
            start = reader.line_num + 1
            continue
        line, start = start, reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = _header(cells, path)
        elif len(cells) != len(header):
            expected = f"{len(header)} cells, as in the header"
            bad.append(
                BadRow(str(path), line, "(line)", expected, f"{len(cells)}", "quote cells that hold a separator")
            )
        else:
            rows.append(Row(dict(zip(header, cells, strict=True)), str(path), line))
    return rows, bad


def _header(cells: list[str], path: Path) -> list[str]:
    names = [c.strip() for c in cells]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(f"the column `{twice[0]}` is in the header twice", where=f"{path}:1", fix="rename one of them")
    return names


@contextmanager
def _large_cells() -> Iterator[None]:
    """The csv module refuses cells over 128 KiB by a module-wide limit; lift it while we read, and put it back."""
    with _CELL_LIMIT_LOCK:
        before = csv.field_size_limit(_LARGEST_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _read_parquet(path: Path, source: SourceConfig) -> Read:
    try:
        values = pyarrow.parquet.read_table(path, partitioning=None).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # texts that are no UTF-8 too
        reason = str(error).splitlines()[0]
        raise UserError(f"the file is no readable Parquet: {reason}", where=str(path), fix="write it again") from None
    rows = [Row(value, str(path), number) for number, value in enumerate(values, 1)]
    return Read(rows, [ReadFile(str(path), sha256(path), len(rows))])


def _read_txt(path: Path, source: SourceConfig) -> Read:
    decoded = _decode(path, source)
    rows = [
        Row({"text": text, "file": path.name, "folder": path.parent.name}, str(path), line)
        for line, text in _TXT_ROWS[source.txt_rows](decoded.text.replace("\r\n", "\n"))
    ]
    return _finish(path, decoded, rows, [])


def _lines(text: str) -> Iterator[tuple[int, str]]:
    return ((n, line) for n, line in enumerate(text.split("\n"), 1) if line.strip())


def _paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Stretches of lines between blank ones, with the line where each begins."""
    held: list[str] = []
    start = 1
    for number, line in enumerate([*text.split("\n"), ""], 1):
        if line.strip():
            start = start if held else number
            held.append(line)
        elif held:
            yield start, "\n".join(held)
            held = []


def _whole(text: str) -> Iterator[tuple[int, str]]:
    yield 1, text.strip("\n")


_TXT_ROWS: dict[str, Callable[[str], Iterator[tuple[int, str]]]] = {
    "auto": _lines,  # sources.py settles `auto` for folders before a file is read
    "line": _lines,
    "paragraph": _paragraphs,
    "file": _whole,
}


def _decode(path: Path, source: SourceConfig) -> Decoded:
    return read_text(path, encoding=source.encoding, on_bad_bytes=source.on_bad_bytes)


def _finish(path: Path, decoded: Decoded, rows: list[Row], bad: list[BadRow]) -> Read:
    lines = tuple(sorted(set(decoded.bad_lines)))
    return Read(rows, [ReadFile(str(path), decoded.sha256, len(rows), len(decoded.bad_lines), lines)], bad)


READERS: dict[str, Reader] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "ndjson": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_csv,
    "parquet": _read_parquet,
    "txt": _read_txt,
}
