"""What this machine offers a process besides its processors: memory and room on its disks."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 1 << 30

_CGROUP = Path("/sys/fs/cgroup")
# The limit and the usage of a container, in the second and the first version of control groups.
_LIMIT_FILES = (
    ("memory.max", "memory.current", "memory.stat"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat"),
)


@dataclass(frozen=True)
class Memory:
    """Memory in bytes: of the machine or, where that is less, of the container that this process runs in."""

    total: int
    available: int
    limited: bool


def memory(cgroup: Path = _CGROUP) -> Memory:
    """The memory that this process can have. A container's limit counts, since the kernel kills what exceeds it.

    Args:
        cgroup: Where the kernel shows the limits of this process's container.
    """
    machine = psutil.virtual_memory()
    for limit_name, usage_name, detail_name in _LIMIT_FILES:
        limit = _number(cgroup / limit_name)
        if limit is not None and limit < machine.total:
            used = (_number(cgroup / usage_name) or 0) - _reclaimable(cgroup / detail_name)
            return Memory(limit, min(max(0, limit - used), machine.available), True)
    return Memory(machine.total, machine.available, False)


def disk_free(path: Path) -> int:
    """Free bytes on the disk that holds ``path``, or would hold it once it is made."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    return shutil.disk_usage(existing).free


def folder_size(path: Path) -> int:
    """Bytes of the files in ``path``; links count nothing, and neither does what cannot be read. 0 without a folder."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            file = Path(folder, name)
            try:
                total += 0 if file.is_symlink() else file.stat().st_size
            except OSError:  # gone since it was listed
                continue
    return total


def writable(path: Path) -> bool:
    """Whether a file could be made in ``path``, or the folder itself where it does not exist yet."""
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    effective = os.access in os.supports_effective_ids
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK, effective_ids=effective)


def _reclaimable(path: Path) -> int:
    """Bytes of cached files that count as used but are given up as soon as memory is asked for."""
    try:
        rows = dict(line.split(maxsplit=1) for line in path.read_text(encoding="ascii").splitlines())
        return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))
    except (OSError, ValueError):
        return 0


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such file, or `max`: no limit
        return None
