"""A folder of checkpoints: ``checkpoints/step-000100/`` with tensors, state and a manifest written last.

A checkpoint is written to a temporary name, flushed to the disk and renamed, so that its name appears only when it is
whole. The manifest holds each file's size and SHA-256; reading verifies them, names a damaged checkpoint and takes the
one before it.

Several processes may write one together, each the tensors that it holds, in a file of its own for each group
(``trainable-00002-of-00004.safetensors``). Every tensor is in one piece, so that any number of processes can read it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from burnish.core.errors import UserError
from burnish.core.files import disk_errors, finite, make_readable, sha256
from burnish.core.findings import Finding
from burnish.core.processes import Crew

MANIFEST = "manifest.json"
STATE = "state.json"
Sums = dict[str, dict[str, Any]]
"""Size and hash of files, by name."""


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
        temporary = self._begin(checkpoint.step)
        try:
            with _writing(self.path(checkpoint.step)):
                self._finish(temporary, checkpoint, write_tensors(temporary, checkpoint))
        finally:
            self._sweep()
        self._drop_old(protect)
        return self.path(checkpoint.step)

    def save_together(self, checkpoint: Checkpoint, crew: Crew, protect: int | None = None) -> Path:
        """Write a checkpoint whose tensors several processes hold, each those of it that are not on the meta device.

        Args:
            checkpoint: What to write; state and step are the main process's.
            crew: The processes, all of which call this, on a folder that they share.
            protect: A step that is never dropped.

        Raises:
            UserError: In every process, where any of them cannot write.
        """
        place, target = crew.on_main(lambda: str(self._begin(checkpoint.step))), self.path(checkpoint.step)
        temporary = Path(crew.of_main(place or ""))

        def part() -> Sums:
            with _writing(target):
                return write_tensors(temporary, checkpoint, f"-{crew.rank + 1:05d}-of-{crew.size:05d}")

        def finish() -> None:
            with _writing(target):
                self._finish(temporary, checkpoint, sums)
            self._drop_old(protect)

        try:
            parts = crew.collected([crew.together(part)])
            sums = {name: values for written in parts for name, values in written.items()}
            crew.on_main(finish)
        finally:
            if crew.rank == 0:
                self._sweep()
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
        groups: dict[str, dict[str, Tensor]] = {}
        for name in names:
            if name.endswith(".safetensors"):
                groups.setdefault(_PART.sub("", Path(name).stem), {}).update(load_file(folder / name))
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

    def _begin(self, step: int) -> Path:
        """A folder to write a checkpoint in; what an earlier save left is gone."""
        with _writing(self.path(step)):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
            return Path(tempfile.mkdtemp(dir=self.folder, prefix=".writing-"))

    def _finish(self, temporary: Path, checkpoint: Checkpoint, sums: Sums) -> None:
        """Write state and manifest beside the tensors, and put the folder in its place."""
        target = self.path(checkpoint.step)
        write_manifest(temporary, checkpoint, sums)
        make_readable(temporary)
        if target.exists():
            os.replace(target, temporary.with_name(temporary.name + "-old"))
        os.replace(temporary, target)
        _sync_folder(self.folder)

    def _drop_old(self, protect: int | None) -> None:
        steps = self.steps()
        for step in steps[: -self.keep]:
            if step != protect:
                shutil.rmtree(self.path(step), ignore_errors=True)

    def _sweep(self) -> None:
        for leftover in self.folder.glob(".writing-*"):
            shutil.rmtree(leftover, ignore_errors=True)


_PART = re.compile(r"-\d{5}-of-\d{5}$")


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


def write_tensors(folder: Path, checkpoint: Checkpoint, part: str = "") -> Sums:
    """Write the tensors of a checkpoint that are here, a file for each group; returns size and hash of each."""
    sums = {}
    for group, tensors in checkpoint.tensors.items():
        here = apart({name: tensor for name, tensor in tensors.items() if not tensor.is_meta})
        if here or not part:
            path = folder / f"{group}{part}.safetensors"
            save_file(here, path)
            sums[path.name] = _summed(path)
    return sums


def apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of which no two share memory, as safetensors wants them; copied only where they do, or have holes."""
    found, seen = {}, set()
    for name, tensor in tensors.items():
        whole = tensor.detach().contiguous()
        memory = whole.untyped_storage()
        alone = memory.nbytes() == whole.nbytes and memory.data_ptr() not in seen
        seen.add(memory.data_ptr())
        found[name] = whole if alone else whole.clone()
    return found


def write_manifest(folder: Path, checkpoint: Checkpoint, sums: Sums) -> None:
    """Write the state, and last the manifest."""
    state = {"step": checkpoint.step, "state": finite(dict(checkpoint.state))}
    (folder / STATE).write_text(json.dumps(state, indent=2, allow_nan=False), encoding="utf-8")
    files = {**sums, STATE: _summed(folder / STATE)}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, "files": files}, indent=2), encoding="utf-8")
    _sync_file(manifest)
    _sync_folder(folder)


def _summed(path: Path) -> dict[str, Any]:
    """Size and hash of a file, which is on the disk then."""
    _sync_file(path)
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    """What a disk refuses, as one message with the place."""
    with disk_errors(target):
        try:
            yield
        except SafetensorError as error:
            raise OSError(str(error)) from error


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
