"""The kernels that DeepSpeed compiles when it is first used on processors: by one process after the other.

PyTorch marks a compilation by a file, and a process that finds the file waits until it is gone. Who is killed in the
middle leaves it, and every later job waits for it, forever and without a word. Here a lock of the operating system,
which ends with its process, tells whether the file still means somebody.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from burnish.core.paths import cache_folder
from burnish.ops.native.library import processor

FOLDER = "TORCH_EXTENSIONS_DIR"
"""The variable that says where PyTorch compiles extensions."""
MARK = "lock"
"""PyTorch's file in the folder of each extension that is being compiled."""


def compile_sums(deepspeed: Any) -> None:
    """Load DeepSpeed's sums between the processes of one machine, which compiles them where that was not done yet.

    A folder of the user's (`TORCH_EXTENSIONS_DIR`) is used as it is: other programs may compile there.

    Args:
        deepspeed: The library.
    """
    builder = deepspeed.accelerator.get_accelerator().create_op_builder("ShareMemCommBuilder")
    if builder is None or not deepspeed.ops.__compatible_ops__.get(builder.NAME, False):
        return
    folder = cache_folder() / "native" / f"deepspeed-{_version(deepspeed)}"
    if os.environ.setdefault(FOLDER, str(folder)) == str(folder):
        one_at_a_time(folder, builder.load)
    else:
        builder.load()


def one_at_a_time(folder: Path, compile_: Callable[[], Any]) -> None:
    """Compile while no other process does so, without the marks of those that are gone.

    Args:
        folder: Where extensions are compiled; only through here.
        compile_: What to do.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / "busy") as alone:
        for mark in folder.glob(f"*/{MARK}") if alone else ():
            mark.unlink(missing_ok=True)
        compile_()


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a file's lock, which is given back when the process ends in whatever way; False where there are no locks."""
    try:
        import fcntl
    except ImportError:  # Windows, for which DeepSpeed compiles nothing
        yield False
        return
    with path.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            yield False
            return
        yield True


def _version(deepspeed: Any) -> str:
    """What the compiled code depends on: the libraries and the processor."""
    text = f"{torch.__version__} {deepspeed.__version__}".encode()
    return hashlib.sha256(text + processor()).hexdigest()[:16]
