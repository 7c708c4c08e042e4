"""Kernels that are compiled by one process after the other, also after one that was killed while it compiled."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from burnish.train.distributed.compiled import FOLDER, MARK, compile_sums, one_at_a_time
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


def library(loaded: list[str], compatible: bool = True) -> Any:
    """As much of DeepSpeed as is asked; ``loaded`` hears where it compiles."""
    builder = SimpleNamespace(NAME="sums", load=lambda: loaded.append(os.environ[FOLDER]))
    accelerator = SimpleNamespace(create_op_builder=lambda name: builder)
    return SimpleNamespace(
        __version__="1",
        accelerator=SimpleNamespace(get_accelerator=lambda: accelerator),
        ops=SimpleNamespace(__compatible_ops__={"sums": compatible}),
    )


def test_our_folder_is_cleared_and_a_users_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours also where the variable came from a process that set it; in a user's folder, other programs compile too."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(FOLDER, "")
    monkeypatch.delenv(FOLDER)
    loaded: list[str] = []
    for _ in range(2):
        compile_sums(library(loaded))
        mark = Path(loaded[-1]) / "sums" / MARK
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
    assert len(set(loaded)) == 1 and loaded[0].startswith(str(tmp_path / "cache"))
    compile_sums(library(loaded))
    assert not mark.exists()
    monkeypatch.setenv(FOLDER, str(tmp_path / "own"))
    foreign = tmp_path / "own/sums" / MARK
    foreign.parent.mkdir(parents=True)
    foreign.touch()
    compile_sums(library(loaded))
    assert loaded[-1] == str(tmp_path / "own") and foreign.exists()


def test_nothing_is_compiled_that_does_not_suit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    loaded: list[str] = []
    compile_sums(library(loaded, compatible=False))
    assert not loaded and FOLDER not in os.environ
