"""Files that are whole or absent: atomic writes, line logs and hashes."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from burnish.core.errors import UserError


def write_atomic(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Write ``content`` beside ``path``, flush it to the disk and rename it into place.

    A reader sees the old file or the new one, never a part. A full disk or a read-only folder raises
    ``UserError`` and leaves the old file as it was. Texts that come one by one are written as they come.
    """
    parts: Iterable[str | bytes] = (content,) if isinstance(content, (str, bytes)) else content
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                for part in parts:
                    file.write(encoded(part) if isinstance(part, str) else part)
                file.flush()
                os.fsync(file.fileno())
            make_readable(Path(temporary))
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def encoded(text: str) -> bytes:
    """UTF-8. Half of a character, which a file name or JSON can hold, becomes its escape, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def make_readable(path: Path) -> None:
    """Give a file, or a folder and its files, the access that new ones have here: temporary ones start private."""
    mask = os.umask(0)
    os.umask(mask)
    for one in (path, *(path.rglob("*") if path.is_dir() else ())):
        one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinity become null."""
    write_atomic(path, json.dumps(finite(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one JSON object as one line, in a single write, so that a crash cuts at most the last line."""
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(finite(value), ensure_ascii=False, allow_nan=False) + "\n"
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n":
                line = "\n" + line  # a crash cut the last line: it must not swallow this one
            file.write(encoded(line))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file that ``append_line`` wrote; a half-written last line is left out."""
    return list(iter_lines(path))


def iter_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of ``read_lines``, one at a time."""
    with path.open(encoding="utf-8", newline="\n") as file:  # other ends of lines, U+2028 too, stand inside texts
        for line in file:
            try:
                yield json.loads(line)
            except json.JSONDecodeError:
                continue


def finite(value: Any) -> Any:
    """Replace NaN and infinity by None, all the way down: JSON has no word for them."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a ``UserError`` with the place and the fix."""
    try:
        yield
    except OSError as error:
        fixes = {28: "free space on the disk or choose another `output`", 30: "choose an `output` that can be written"}
        fix = fixes.get(error.errno or 0, "check that the folder exists, is writable and has room")
        raise UserError(f"cannot write: {error.strerror or error}", where=str(path), fix=fix) from error
