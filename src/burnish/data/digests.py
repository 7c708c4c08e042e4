"""Hashes of data files that are known, so that a run that goes on need not read them to the end to know them again.

A hash is known for a file of the same size, times of change (of its bytes, and of anything about it, which no program
can set back) and number on its disk. A file that was changed less than two seconds before it was read may have been
changed again without a trace of it in its times (as git has it, "racily clean"): its hash is not written down.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from burnish.core.errors import UserError
from burnish.core.files import sha256, write_atomic
from burnish.core.paths import cache_folder

Stamp = tuple[int, int, int, int]
Known = dict[str, tuple[Stamp, str, bool]]
"""By path: the stamp of the file, its hash, and whether the file was at rest when it was read."""

_KNOWN: Known = {}
_READ: dict[Path, int] = {}
_MOST = 100_000
_REST = 2 * 10**9


def stamp_of(path: Path) -> Stamp:
    """Size, times of change and number of a file."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def digest(path: Path) -> str:
    """The SHA-256 of a file, read only where it is not known.

    Raises:
        OSError: The file cannot be read.
    """
    _read_book()
    now, before = time.time_ns(), stamp_of(path)
    known = _KNOWN.get(str(path))
    if known is not None and known[0] == before:
        return known[1]
    found = sha256(path)
    if stamp_of(path) == before and max(before[1], before[2]) + _REST < now:
        _KNOWN[str(path)] = (before, found, True)
    return found


def told(paths: Iterable[Path]) -> Known:
    """What this process knows of some files, for others; those that it does not know are read."""
    found: Known = {}
    for path in paths:
        before, value = stamp_of(path), digest(path)
        rested = _KNOWN.get(str(path), (before, value, False))[2]
        found[str(path)] = (before, value, rested)
    return found


def learn(known: Mapping[str, tuple[Stamp, str, bool]]) -> None:
    """Take over what another process has read."""
    _KNOWN.update(known)


def keep(paths: Iterable[Path]) -> None:
    """Write down the hashes of files that are known and were at rest."""
    own = {str(path): _KNOWN[str(path)] for path in paths if str(path) in _KNOWN and _KNOWN[str(path)][2]}
    with suppress(UserError):
        _read_book()
        rest = {name: known for name, known in _KNOWN.items() if known[2] and name not in own}
        lines = {name: [list(stamp), value] for name, (stamp, value, _) in [*rest.items(), *own.items()][-_MOST:]}
        write_atomic(_book(), json.dumps(lines))  # file names can hold half characters, which JSON escapes


def _book() -> Path:
    return cache_folder() / "files.json"


def _read_book() -> None:
    path = _book()
    with suppress(OSError, ValueError, TypeError):
        written = path.stat().st_mtime_ns
        if _READ.get(path) != written:
            found = json.loads(path.read_text(encoding="utf-8"))
            _READ[path] = written
            _KNOWN.update({str(name): (_stamp(stamp), str(value), True) for name, (stamp, value) in found.items()})


def _stamp(values: list[int]) -> Stamp:
    size, changed, touched, number = map(int, values)
    return size, changed, touched, number
