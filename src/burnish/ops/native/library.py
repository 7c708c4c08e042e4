"""Compile the kernels of this folder for the processor at hand, once, and load them.

A C compiler is all that is needed, and none is required: without one, and where the kernels do not give what PyTorch
gives, everything runs on PyTorch alone. The library is kept in the cache folder, named by a hash of the source, the
compiler and the processor's features, so that machines can share a home. `BURNISH_NATIVE=0` leaves it out.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

import torch

from burnish.core.paths import cache_folder

HERE = Path(__file__).parent
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fPIC", "-shared", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math")
"""No -ffast-math: a NaN must stay one, or a run that went wrong would not be stopped."""

_TIMEOUT = 120


class _State:
    """Why there is no library, for `doctor`; empty while there is one."""

    reason = ""


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None with the reason in ``why_not``."""
    if os.environ.get("BURNISH_NATIVE") == "0":
        return _without("BURNISH_NATIVE=0 leaves them out")
    compiler = find_compiler()
    if compiler is None:
        return _without("no C compiler was found; install gcc or clang, or name one in CC")
    try:
        path = _path(compiler)
        if not path.exists():
            _compile(compiler, path)
        return ctypes.CDLL(str(path))
    except (OSError, subprocess.SubprocessError) as error:
        return _without(f"the kernels could not be compiled: {str(error).splitlines()[0][:200]}")


def why_not() -> str:
    """Why there are no compiled kernels; empty where there are."""
    return "" if library() is not None else _State.reason


def find_compiler() -> tuple[str, ...] | None:
    """The C compiler's command: $CC, else the first of cc, gcc and clang that is installed."""
    given = os.environ.get("CC")
    candidates = [tuple(shlex.split(given))] if given else [("cc",), ("gcc",), ("clang",)]
    return next((c for c in candidates if c and shutil.which(c[0])), None)


def _without(reason: str) -> ctypes.CDLL | None:
    _State.reason = reason
    return None


def _path(compiler: tuple[str, ...]) -> Path:
    digest = hashlib.sha256()
    for source in sorted(HERE.glob("*.[chi]*")):
        if source.suffix in (".c", ".h", ".inc"):
            digest.update(source.read_bytes())
    version = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=_TIMEOUT).stdout
    digest.update(version + repr((compiler, FLAGS, torch.__version__, platform.machine())).encode())
    digest.update(processor())
    return cache_folder() / "native" / f"kernels-{digest.hexdigest()[:20]}.so"


def processor() -> bytes:
    """What tells processors apart that run different instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor().encode()
    wanted = ("flags", "Features", "model name", "cpu family", "model")
    return "\n".join(sorted({line for line in lines if line.split("\t")[0].strip() in wanted})).encode()


def _compile(compiler: tuple[str, ...], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [*compiler, *FLAGS, str(HERE / "kernels.c"), "-o", str(made), "-lm"]
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
        if answer.returncode:
            raise OSError((answer.stderr.strip().splitlines() or ["no message"])[0])
        os.replace(made, path)  # whole or absent, also when two processes compile at once
