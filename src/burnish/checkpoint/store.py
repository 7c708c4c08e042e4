"""A folder of checkpoints: ``checkpoints/step-000100/`` with tensors, state and a manifest written last.

A checkpoint is written to a temporary name, flushed to the disk and renamed, so that its name appears only when it is
whole. The manifest holds each file's size and SHA-256; reading verifies them, names a damaged checkpoint and takes the
one before it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from burnish.core.errors import UserError
from burnish.core.files import disk_errors, finite, make_readable, sha256
from burnish.core.findings import Finding

MANIFEST = "manifest.json"
STATE = "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What one checkpoint holds.

    Attributes:
        step: Updates done.
        tensors: Named groups of tensors: ``{"trainable": {name: tensor}, "optimizer": {...}}``; one file a group.
        state: JSON values: counters, best score, scaler.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: Where they live; made at the first save.
        keep: How many of the newest stay.
    """

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder, self.keep = folder, keep

    def path(self, step: int) -> Path:
        """The folder of one checkpoint."""
        return self.folder / f"step-{step:06d}"

    def steps(self) -> list[int]:
        """The steps with a checkpoint on disk, oldest first, verified or not."""
        found = self.folder.glob("step-*") if self.folder.is_dir() else []
        return sorted(int(p.name[5:]) for p in found if p.is_dir() and p.name[5:].isdigit())

    def save(self, checkpoint: Checkpoint, protect: int | None = None) -> Path:
        """Write a checkpoint and drop the ones that are no longer kept.

        Args:
            checkpoint: What to write. A checkpoint of the same step is replaced.
            protect: A step that is never dropped: the best one.

        Raises:
            UserError: The disk is full or the folder can't be written; earlier checkpoints stay as they were.
        """
        target = self.path(checkpoint.step)
        with disk_errors(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=".writing-"))
            try:
                _write_files(temporary, checkpoint)
                make_readable(temporary)
                if target.exists():
                    os.replace(target, temporary.with_name(temporary.name + "-old"))
                os.replace(temporary, target)
                _sync_folder(self.folder)
            except SafetensorError as error:
                raise OSError(str(error)) from error
            finally:
                self._sweep()
        self._drop_old(protect)
        return target

    def load(self, step: int) -> Checkpoint:
        """Read one checkpoint after verifying it against its manifest.

        Raises:
            UserError: A file is missing, has another size or another hash.
        """
        folder = self.path(step)
        fault = verify(folder)
        if fault:
            raise UserError(f"the checkpoint is damaged: {fault}", where=str(folder), fix="use an earlier checkpoint")
        names = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        groups = {Path(n).stem: load_file(folder / n) for n in names if n.endswith(".safetensors")}
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return Checkpoint(step=state["step"], tensors=groups, state=state["state"])

    def latest(self) -> tuple[Checkpoint | None, list[Finding]]:
        """The newest whole checkpoint, and a finding for each newer one that is damaged."""
        findings: list[Finding] = []
        for step in reversed(self.steps()):
            fault = verify(self.path(step))
            if fault is None:
                return self.load(step), findings
            findings.append(_damaged(self.path(step), fault))
        return None, findings

    def _drop_old(self, protect: int | None) -> None:
        steps = self.steps()
        for step in steps[: -self.keep]:
            if step != protect:
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _sweep(self) -> None:
        for leftover in self.folder.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)


def verify(folder: Path) -> str | None:
    """Say what is wrong with a checkpoint folder, or None when every file equals its manifest."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing, so the save did not finish"
    except (ValueError, KeyError, TypeError):
        return f"{MANIFEST} is not readable"
    for name, expected in files.items():
        path = folder / name
        if path.parent != folder or not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["bytes"]:
            return f"{name} has {path.stat().st_size} bytes, expected {expected['bytes']}"
        if sha256(path) != expected["sha256"]:
            return f"{name} does not match its checksum"
    return None


def _write_files(folder: Path, checkpoint: Checkpoint) -> None:
    for group, tensors in checkpoint.tensors.items():
        # safetensors refuses views that share memory; a checkpoint stores each name on its own
        save_file({k: v.detach().contiguous().clone() for k, v in tensors.items()}, folder / f"{group}.safetensors")
    state = {"step": checkpoint.step, "state": finite(dict(checkpoint.state))}
    (folder / STATE).write_text(json.dumps(state, indent=2, allow_nan=False), encoding="utf-8")
    files = {}
    for path in sorted(folder.iterdir()):
        _sync_file(path)
        files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=2), encoding="utf-8")
    _sync_file(manifest)
    _sync_folder(folder)


def _sync_file(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sync_folder(folder: Path) -> None:
    if hasattr(os, "O_DIRECTORY"):  # a platform without it cannot sync a folder
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _damaged(folder: Path, fault: str) -> Finding:
    return Finding(
        severity="warning",
        code="checkpoint.damaged",
        what=f"{folder.name} is damaged: {fault}",
        where=str(folder),
        why="Resuming from it would not continue the run that was saved.",
        fix="the checkpoint before it is used; delete this folder",
    )
