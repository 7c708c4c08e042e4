"""Readers of data files, one per kind, found by the file's suffix."""

from __future__ import annotations

import csv
import io
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from burnish.core.errors import UserError
from burnish.data.config import SourceConfig
from burnish.data.decode import Undecodable, text_blocks
from burnish.data.rows import BadRow, BadRows, Row, describe

BATCH = 512
"""Rows of a columnar file that are turned into Python values at once."""
_CSV_ROWS = 512
_LARGEST_CELL = 1 << 30
_CELL_LIMIT_LOCK = threading.Lock()

Reader = Callable[[Path, SourceConfig, "Seen"], Iterator[Row]]


@dataclass
class Seen:
    """What reading a file turns up beside its rows: rows that are wrong, bytes that are no text, and notes."""

    bad: BadRows = field(default_factory=BadRows)
    undecodable: Undecodable = field(default_factory=Undecodable)
    notes: list[str] = field(default_factory=list)


def read_rows(path: Path, source: SourceConfig, seen: Seen) -> Iterator[Row]:
    """The rows of one data file, one by one, by its suffix.

    Raises:
        UserError: The suffix is unknown, or the file as a whole cannot be read. Single bad rows are noted in ``seen``.
    """
    return READERS[kind_of(path)](path, source, seen)


def kind_of(path: Path) -> str:
    """The suffix that decides the reader, without the dot and without `.gz`; empty if no reader knows it."""
    name = path.name.lower().removesuffix(".gz")
    suffix = Path(name).suffix.removeprefix(".")
    return suffix if suffix in READERS else ""


def _read_json(path: Path, source: SourceConfig, seen: Seen) -> Iterator[Row]:
    """A JSON list or object. Its text is held while it is read; JSON lines are not."""
    text = "".join(_text(path, source, seen))
    start = _skip_space(text, 0)
    if start < len(text) and text[start] == "{":
        return _read_json_object(path, source, seen, text, start)
    if start >= len(text) or text[start] != "[":
        raise UserError("the file is not a JSON list of rows", where=f"{path}:1", fix="write `[{…}, {…}]`, or .jsonl")
    return _json_list(text, start, path, seen)


def _read_json_object(path: Path, source: SourceConfig, seen: Seen, text: str, start: int) -> Iterator[Row]:
    """A top-level object: JSON lines under the wrong suffix, one row, or a wrapper around one list of rows."""
    value, end = _one_value(text, start, path)
    if _skip_space(text, end) < len(text):
        return _jsonl_rows(iter([text]), path, seen)
    lists = [k for k, v in value.items() if isinstance(v, list) and v and all(isinstance(r, dict) for r in v)]
    if len(lists) == 1 and not {"messages", "conversations"} & set(lists):
        inner = re.compile(rf"{re.escape(json.dumps(lists[0], ensure_ascii=False))}\s*:\s*").search(text, start)
        if inner:
            return _json_list(text, inner.end(), path, seen)
    return iter([Row(value, str(path), 1)])


def _json_list(text: str, start: int, path: Path, seen: Seen) -> Iterator[Row]:
    """The elements of a JSON list, read one by one so that each row knows its line."""
    position, line, counted = _skip_space(text, start + 1), 1, 0
    if text[position : position + 1] == "]":
        return
    while True:
        line += text.count("\n", counted, position)
        counted = position
        value, end = _one_value(text, position, path)
        if isinstance(value, dict):
            yield Row(value, str(path), line)
        else:
            seen.bad.add(BadRow(str(path), line, "(row)", "an object", describe(value)))
        end = _skip_space(text, end)
        mark = text[end : end + 1]
        if mark == "]":
            return
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


def _read_jsonl(path: Path, source: SourceConfig, seen: Seen) -> Iterator[Row]:
    return _jsonl_rows(_text(path, source, seen), path, seen)


def _jsonl_rows(blocks: Iterator[str], path: Path, seen: Seen) -> Iterator[Row]:
    name = str(path)
    for number, line in _numbered(blocks):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            seen.bad.add(BadRow(name, number, "(line)", "one JSON object", _reason(error), "mend the line"))
            continue
        if isinstance(value, dict):
            yield Row(value, name, number)
        else:
            seen.bad.add(BadRow(name, number, "(line)", "one JSON object", describe(value)))


def _numbered(blocks: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Every line that is not blank, with its number; splitlines() would also split at U+2028 inside a text."""
    lines = (line for block in blocks for line in block.removesuffix("\n").split("\n"))
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _reason(error: Exception) -> str:
    return "nesting too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))


def _read_csv(path: Path, source: SourceConfig, seen: Seen) -> Iterator[Row]:
    blocks = _text(path, source, seen)
    start = next(blocks, "")
    delimiter = "\t" if kind_of(path) == "tsv" else ","
    first = start.split("\n", 1)[0]
    if delimiter not in first:
        others = [d for d in ";\t|" if d in first]
        if len(others) == 1:
            delimiter = others[0]
            seen.notes.append(f"{path}: the columns are separated by {delimiter!r}")
    lines = (line for block in chain([start], blocks) for line in io.StringIO(block, newline=""))
    rows = _csv_rows(csv.reader(lines, delimiter=delimiter, strict=True), path, seen)
    while True:
        with _large_cells():
            ready = list(islice(rows, _CSV_ROWS))
        if not ready:
            return
        yield from ready


def _csv_rows(reader: Any, path: Path, seen: Seen) -> Iterator[Row]:
    name = str(path)
    header: list[str] | None = None
    start = 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            seen.bad.add(BadRow(name, start, "(line)", "well-formed cells", str(error), "check its quotes"))
            start = reader.line_num + 1
            continue
        line, start = start, reader.line_num + 1
        if not cells:
            continue
        if header is None:
            header = _header(cells, path)
        elif len(cells) != len(header):
            expected = f"{len(header)} cells, as in the header"
            fix = "quote cells that hold a separator"
            seen.bad.add(BadRow(name, line, "(line)", expected, f"{len(cells)}", fix))
        else:
            yield Row(dict(zip(header, cells, strict=True)), name, line)


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


def _read_parquet(path: Path, source: SourceConfig, seen: Seen) -> Iterator[Row]:
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            values = (value for batch in file.iter_batches(batch_size=BATCH) for value in batch.to_pylist())
            yield from (Row(value, str(path), number) for number, value in enumerate(values, 1))
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:  # texts that are no UTF-8 too
        reason = str(error).splitlines()[0]
        raise UserError(f"the file is no readable Parquet: {reason}", where=str(path), fix="write it again") from None


def _read_txt(path: Path, source: SourceConfig, seen: Seen) -> Iterator[Row]:
    blocks = (block.replace("\r\n", "\n") for block in _text(path, source, seen))
    for line, text in _TXT_ROWS[source.txt_rows](blocks):
        yield Row({"text": text, "file": path.name, "folder": path.parent.name}, str(path), line)


def _paragraphs(blocks: Iterator[str]) -> Iterator[tuple[int, str]]:
    """Stretches of lines between blank ones, with the line where each begins."""
    held: list[str] = []
    start, last = 1, 0
    for number, line in _numbered(blocks):
        if held and number != last + 1:
            yield start, "\n".join(held)
            held = []
        start = start if held else number
        held.append(line)
        last = number
    if held:
        yield start, "\n".join(held)


def _whole(blocks: Iterator[str]) -> Iterator[tuple[int, str]]:
    yield 1, "".join(blocks).strip("\n")


_TXT_ROWS: dict[str, Callable[[Iterator[str]], Iterator[tuple[int, str]]]] = {
    "auto": _numbered,  # sources.py settles `auto` for folders before a file is read
    "line": _numbered,
    "paragraph": _paragraphs,
    "file": _whole,
}


def _text(path: Path, source: SourceConfig, seen: Seen) -> Iterator[str]:
    return text_blocks(path, seen.undecodable, encoding=source.encoding, on_bad_bytes=source.on_bad_bytes)


READERS: dict[str, Reader] = {
    "json": _read_json,
    "jsonl": _read_jsonl,
    "ndjson": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_csv,
    "parquet": _read_parquet,
    "txt": _read_txt,
}
