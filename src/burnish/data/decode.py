"""From bytes to text: byte order marks, and bytes that the encoding does not allow."""

from __future__ import annotations

import bisect
import codecs
import gzip
import hashlib
import io
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from burnish.core.errors import UserError

# UTF-32's mark begins with UTF-16's, so it is tried first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)

_WINDOW = 1 << 14
_LARGEST_RATIO, _ALWAYS_UNPACKED = 200, 1 << 26
"""Rows that repeat themselves pack to a hundredth; gzip's own limit is a thousandth."""


@dataclass(frozen=True)
class Decoded:
    """The text of a file, the hash of its bytes on disk, and the lines of its undecodable bytes (one entry each)."""

    text: str
    sha256: str
    bad_lines: tuple[int, ...] = ()


def read_text(path: Path, *, encoding: str = "utf-8", on_bad_bytes: Literal["error", "replace"] = "error") -> Decoded:
    """Read a text file (`.gz` is unpacked) and decode it; line ends are kept as they are.

    Args:
        path: The file.
        encoding: Used unless the file begins with a byte order mark.
        on_bad_bytes: ``error`` refuses undecodable bytes; ``replace`` puts one U+FFFD in place of each such sequence.

    Raises:
        UserError: The file cannot be read, or holds undecodable bytes and they are not to be replaced.
    """
    data = read_bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if path.suffix == ".gz":
        data = _unzip(data, path)
    for mark, name in _MARKS:
        if data.startswith(mark):
            data, encoding = data[len(mark) :], name
            break
    text, bad = _decode(data, encoding)
    if not bad:
        return Decoded(text, digest)
    lines = _line_numbers(data, [start for start, _ in bad])
    if on_bad_bytes == "error":
        start, end = bad[0]
        raise UserError(
            f"{len(bad)} byte sequences in {len(set(lines))} lines are not {encoding}; "
            f"the first is {data[start:end].hex(' ')} (hexadecimal)",
            where=f"{path}:{lines[0]}, byte {start}",
            fix="set `on_bad_bytes: replace` for this source, or its `encoding` (cp1252 and latin-1 are usual)",
        )
    return Decoded(text, digest, tuple(lines))


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


def read_bytes(path: Path) -> bytes:
    """The bytes of a file, with the operating system's refusal as a ``UserError``."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error


def _unzip(data: bytes, path: Path) -> bytes:
    try:
        return _unzip_within(data, max(_ALWAYS_UNPACKED, _LARGEST_RATIO * len(data)), path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"the file is no whole gzip file: {error}", where=str(path), fix="fetch it again") from error


def _unzip_within(data: bytes, limit: int, path: Path) -> bytes:
    """Unpack in pieces and stop at a limit: a few megabytes can unpack to more than any memory holds."""
    pieces: list[bytes] = []
    size = 0
    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        while piece := file.read(_WINDOW):
            size += len(piece)
            pieces.append(piece)
            if size > limit:
                raise UserError(
                    f"the file unpacks to more than {_LARGEST_RATIO} times its size, as no text does",
                    where=str(path),
                    fix="unpack it yourself, if you trust it",
                )
    return b"".join(pieces)


def _line_numbers(data: bytes, positions: list[int]) -> list[int]:
    ends: list[int] = []
    at = data.find(b"\n")
    while at >= 0:
        ends.append(at)
        at = data.find(b"\n", at + 1)
    return [bisect.bisect_left(ends, p) + 1 for p in positions]
