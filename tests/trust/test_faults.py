"""Disks that fill up and folders that cannot be written: one message, exit code 2, and the run goes on afterwards."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from burnish.cli.main import call
from tests.support.recipes import recipe

SECTIONS = {"checkpoint": {"every_steps": 2}, "adapter": {"method": "lora", "rank": 4, "dropout": 0.1}}


def written(folder: Path) -> str:
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(folder, **SECTIONS)))
    return str(path)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to let a file grow past ``size`` bytes, with the error that a full disk gives to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def outcome(folder: Path) -> tuple[bytes, bytes]:
    run = folder / "runs/run"
    return (run / "final/adapter_model.safetensors").read_bytes(), (run / "evaluation.json").read_bytes()


def test_a_disk_that_is_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Full at several moments: at the first file, at a checkpoint's weights or moments, at the end. Then there is room.

    The interrupted run is resumed, or started where nothing had been written yet, and ends as one with room did.
    """
    assert call(["run", written(tmp_path / "whole")]) == 0
    sizes = sorted({f.stat().st_size for f in (tmp_path / "whole/runs").rglob("*") if f.is_file()})
    for size in [200, *sizes[len(sizes) // 2 : -1 : 3], sizes[-1] - 500]:
        folder = tmp_path / str(size)
        path = written(folder)
        capsys.readouterr()
        with files_of_at_most(size):
            code = call(["run", path])
        shown = capsys.readouterr().err
        assert code == 2 and "fix:" in shown and "Traceback" not in shown, (size, shown)
        run = folder / "runs/run"
        if (run / "evaluation.json").exists():  # only the page was missing
            assert call(["report", str(run)]) == 0
        else:
            assert call(["resume", str(run)] if run.exists() else ["run", path]) == 0, size
        assert outcome(folder) == outcome(tmp_path / "whole")


@pytest.mark.skipif(os.geteuid() == 0 and not hasattr(os, "setresuid"), reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Refused before the model is loaded or anything is trained; nothing is left behind."""
    path = written(tmp_path / "work")
    (tmp_path / "work/runs").mkdir()
    (tmp_path / "work/runs").chmod(0o555)
    root = os.geteuid() == 0
    if root:
        os.setresuid(-1, 65534, -1)  # root may write anywhere; nobody may not
    try:
        code = call(["run", path])
    finally:
        if root:
            os.setresuid(-1, 0, -1)
        (tmp_path / "work/runs").chmod(0o700)
    shown = capsys.readouterr().err
    assert code == 2 and ("cannot be made here" in shown or "Permission denied" in shown) and "Traceback" not in shown
    assert not list((tmp_path / "work/runs").iterdir())
