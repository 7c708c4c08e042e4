"""Kernels that are compiled by one process after the other, also after one that was killed while it compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from burnish.train.distributed.compiled import MARK, one_at_a_time
from tests.distributed.common import ROOT

HOLDS = """
import sys, time
from pathlib import Path
from burnish.train.distributed.compiled import one_at_a_time

def compile_():
    (Path(sys.argv[1]) / "sums/lock").touch()
    print("compiles", flush=True)
    time.sleep(float(sys.argv[2]))
    Path(sys.argv[1], "done").touch()

one_at_a_time(Path(sys.argv[1]), compile_)
"""


def started(folder: Path, seconds: float) -> subprocess.Popen[str]:
    """Another process in the middle of a compilation."""
    (folder / "sums").mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HOLDS, str(folder), str(seconds)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "compiles\n"
    return process


def test_the_mark_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    """PyTorch's own wait would never end: the mark stays, and nobody is there to remove it."""
    process = started(tmp_path, 600)
    process.kill()
    process.wait()
    mark = tmp_path / "sums" / MARK
    assert mark.is_file()
    found: list[bool] = []
    one_at_a_time(tmp_path, lambda: found.append(mark.exists()))
    assert found == [False]


def test_a_process_that_still_compiles_is_waited_for(tmp_path: Path) -> None:
    """Its mark stays until it is done."""
    process, found = started(tmp_path, 1.0), list[bool]()
    one_at_a_time(tmp_path, lambda: found.append((tmp_path / "done").exists()))
    assert found == [True]
    assert process.wait(timeout=60) == 0
