"""From bytes to text: byte order marks, and bytes that the encoding does not allow."""

from __future__ import annotations

import bisect
import codecs
import gzip
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal

from burnish.core.errors import UserError
from burnish.data.rows import SHOWN_ROWS

# UTF-32's mark begins with UTF-16's, so it is tried first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_WINDOW = 1 << 14
_BLOCK = 1 << 20
_LARGEST_RATIO, _ALWAYS_UNPACKED = 200, 1 << 26
"""Rows that repeat themselves pack to a hundredth; gzip's own limit is a thousandth."""
_WIDE = {"utf-16-le": b"\n\0", "utf-16-be": b"\0\n", "utf-32-le": b"\n\0\0\0", "utf-32-be": b"\0\0\0\n"}
"""A line end in encodings whose characters are wider than a byte."""
_STATEFUL = ("iso2022", "hz", "utf-7", "idna", "punycode", "unicode_escape", "raw_unicode_escape")
"""Encodings in which what a byte means depends on what came before it; their files are decoded whole, as are those
whose line end is another byte."""


@dataclass
class Undecodable:
    """Bytes that the encoding does not allow.

    Attributes:
        sequences: How many there are.
        rows: In how many lines.
        lines: The first of these lines.
        first: Line, place and bytes of the first one.
    """

    sequences: int = 0
    rows: int = 0
    lines: list[int] = field(default_factory=list)
    first: tuple[int, int, bytes] | None = None
    _last: int = 0

    def add(self, line: int, place: int, found: bytes) -> None:
        """Take note of one more; they come in order."""
        self.first = self.first or (line, place, found)
        self.sequences += 1
        if line != self._last:
            self.rows += 1
            self._last = line
            if len(self.lines) < SHOWN_ROWS:
                self.lines.append(line)


def text_blocks(
    path: Path,
    seen: Undecodable,
    *,
    encoding: str = "utf-8",
    on_bad_bytes: Literal["error", "replace"] = "error",
) -> Iterator[str]:
    """A text file (`.gz` is unpacked) piece by piece, cut behind line ends; line ends are kept as they are.

    Args:
        path: The file.
        seen: Told of undecodable bytes.
        encoding: Used unless the file begins with a byte order mark.
        on_bad_bytes: ``error`` refuses undecodable bytes; ``replace`` puts one U+FFFD in place of each such sequence.

    Raises:
        UserError: The file cannot be read, or holds undecodable bytes and they are not to be replaced; that is said
            at the end, when all of them are known.
    """
    name, line, place = encoding, 1, 0
    for name, block in _blocks(path, encoding):
        text, bad = _decode(block, name)
        if bad:
            lines = _line_numbers(block, [start for start, _ in bad])
            for number, (start, end) in zip(lines, bad, strict=True):
                seen.add(line - 1 + number, place + start, block[start:end])
        line += block.count(b"\n")
        place += len(block)
        yield text
    if seen.first and on_bad_bytes == "error":
        line, place, found = seen.first
        raise UserError(
            f"{seen.sequences} byte sequences in {seen.rows} lines are not {name}; "
            f"the first is {found.hex(' ')} (hexadecimal)",
            where=f"{path}:{line}, byte {place}",
            fix="set `on_bad_bytes: replace` for this source, or its `encoding` (cp1252 and latin-1 are usual)",
        )


def _blocks(path: Path, encoding: str) -> Iterator[tuple[str, bytes]]:
    """Stretches of whole lines, each with the encoding that the file turned out to have."""
    pieces = _pieces(path)
    start = next(pieces, b"")
    encoding = _settled(encoding)
    for mark, name in _MARKS:
        if start.startswith(mark):
            start, encoding = start[len(mark) :], name
            break
    whole = encoding.startswith(_STATEFUL) or "\n".encode(encoding) != _WIDE.get(encoding, b"\n")
    held: list[bytes] = []
    for piece in chain([start], pieces):
        cut = 0 if whole else _last_line_end(piece, _WIDE.get(encoding, b"\n"))
        if cut:
            yield encoding, b"".join([*held, piece[:cut]])
            held = []
        held.append(piece[cut:])
    rest = b"".join(held)
    if rest:
        yield encoding, rest


def _settled(encoding: str) -> str:
    """The encoding's usual name; one that looks for a mark itself is taken as if it had found none."""
    name = codecs.lookup(encoding).name
    order = "le" if sys.byteorder == "little" else "be"
    return {"utf-8-sig": "utf-8", "utf-16": f"utf-16-{order}", "utf-32": f"utf-32-{order}"}.get(name, name)


def _last_line_end(piece: bytes, end: bytes) -> int:
    """The place behind the last line end of a piece that begins with a whole character; 0 without one."""
    at = piece.rfind(end)
    while at >= 0 and at % len(end):
        at = piece.rfind(end, 0, at + len(end) - 1)
    return at + len(end) if at >= 0 else 0


def _decode(data: bytes, encoding: str) -> tuple[str, list[tuple[int, int]]]:
    """The text with U+FFFD for each undecodable sequence, and where those sequences begin and end."""
    try:
        return data.decode(encoding), []
    except UnicodeDecodeError:
        pass
    pieces: list[str] = []
    bad: list[tuple[int, int]] = []
    position = 0
    while position < len(data):
        window = data[position : position + _WINDOW]  # an error holds a copy of what was decoded, so this stays small
        try:
            pieces.append(window.decode(encoding))
            position += len(window)
        except UnicodeDecodeError as error:
            pieces.append(window[: error.start].decode(encoding))
            if error.end >= len(window) < len(data) - position and error.start:  # perhaps only cut off by the window
                position += error.start
                continue
            end = max(error.end, error.start + 1)
            pieces.append("\ufffd")
            bad.append((position + error.start, position + end))
            position += end
    return "".join(pieces), bad


def _pieces(path: Path) -> Iterator[bytes]:
    """The bytes of a file, unpacked, in pieces of one size (the first is longer, so that a mark can be cut off)."""
    try:
        packed = path.stat().st_size
        with path.open("rb") as file:
            if path.suffix != ".gz":
                yield file.read(_BLOCK + 4)
                while piece := file.read(_BLOCK):
                    yield piece
                return
            yield from _unzipped(file, max(_ALWAYS_UNPACKED, _LARGEST_RATIO * packed), path)
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error


def _unzipped(file: BinaryIO, limit: int, path: Path) -> Iterator[bytes]:
    """Unpack in pieces and stop at a limit: a few megabytes can unpack to more than any memory holds."""
    size = 0
    try:
        with gzip.GzipFile(fileobj=file) as unpacked:
            while piece := unpacked.read(_BLOCK):
                size += len(piece)
                if size > limit:
                    raise UserError(
                        f"the file unpacks to more than {_LARGEST_RATIO} times its size, as no text does",
                        where=str(path),
                        fix="unpack it yourself, if you trust it",
                    )
                yield piece
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"the file is no whole gzip file: {error}", where=str(path), fix="fetch it again") from error


def _line_numbers(data: bytes, positions: list[int]) -> list[int]:
    ends: list[int] = []
    at = data.find(b"\n")
    while at >= 0:
        ends.append(at)
        at = data.find(b"\n", at + 1)
    return [bisect.bisect_left(ends, p) + 1 for p in positions]
