"""The folder of a run: every name in one place, never overwritten unasked, every file whole or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from burnish.core.errors import UserError
from burnish.core.files import append_line, disk_errors, finite, iter_lines, read_lines, write_atomic, write_json
from burnish.core.findings import Finding
from burnish.core.machine import writable
from burnish.core.names import nearest

RECIPE = "recipe.yaml"
FIRST = (RECIPE, "environment.json", "data.json")
"""What every run has from its start. A folder with a recipe alone may be where somebody keeps recipe and data."""

LOGGED = ("train", "gradients", "validation", "retention")
"""Kinds of lines in the log that belong to an update."""


class RunFolder:
    """The files of one run.

    Args:
        path: ``runs/NAME``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoints(self) -> Path:
        """Resumable states."""
        return self.path / "checkpoints"

    @property
    def final(self) -> Path:
        """What the run hands over: the adapter or model of the best checkpoint, with its tokenizer."""
        return self.path / "final"

    @property
    def report(self) -> Path:
        """The page of the run."""
        return self.path / "report.html"

    def exists(self) -> bool:
        """Whether anything is there."""
        return self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))

    def refuse_if_taken(self, force: bool) -> None:
        """Refuse a folder that holds something, unless it is a run and ``force`` allows to replace it."""
        if not self.exists():
            if not writable(self.path.parent):
                raise UserError(
                    "the run folder cannot be made here", where=str(self.path), fix="choose another `output=`"
                )
            return
        if not all((self.path / name).is_file() for name in FIRST):
            raise UserError(
                "the folder of the run is taken by something that is no run; not even --force replaces it",
                where=str(self.path),
                fix="choose another `name=` or `output=`",
            )
        if not force:
            fix = f"choose another `name=`, continue it with `burnish resume {self.path}`, or replace it with --force"
            raise UserError("the run folder already exists", where=str(self.path), fix=fix)

    def create(self, force: bool, fill: Callable[[RunFolder], None]) -> None:
        """Make the folder with its first files, whole or not at all.

        With ``force`` the old run goes only now, when everything else has been accepted.

        Args:
            force: Replace an existing run.
            fill: Writes the first files into the folder that it is given, which is moved into place afterwards.
        """
        self.refuse_if_taken(force)
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            new, old = (self.path.with_name(f".{self.path.name}.{word}-{os.getpid()}") for word in ("new", "old"))
            try:
                new.mkdir()
                fill(RunFolder(new))
                if self.path.exists():
                    os.replace(self.path, old)
                os.replace(new, self.path)
            finally:
                shutil.rmtree(new, ignore_errors=True)
                shutil.rmtree(old, ignore_errors=True)

    def write_recipe(self, values: Mapping[str, Any]) -> None:
        """Write the resolved recipe."""
        text = yaml.safe_dump(finite(values), sort_keys=False, allow_unicode=True, width=120)
        write_atomic(self.path / RECIPE, text)

    def read_recipe(self) -> dict[str, Any]:
        """The resolved recipe as plain values; empty when it is absent."""
        path = self.path / RECIPE
        return yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        write_json(self.path / name, value)

    def read(self, name: str) -> Any:
        """Read a JSON file, or None when it is absent."""
        path = self.path / name
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write a JSONL file, whole; the rows are asked for one at a time."""
        write_atomic(self.path / name, jsonl(rows))

    def read_rows(self, name: str) -> list[dict[str, Any]]:
        """Read a JSONL file; empty when it is absent."""
        path = self.path / name
        return read_lines(path) if path.is_file() else []

    def iter_rows(self, name: str) -> Iterator[dict[str, Any]]:
        """The rows of a JSONL file one at a time; none when it is absent."""
        path = self.path / name
        return iter_lines(path) if path.is_file() else iter(())

    def log(self, line: Mapping[str, Any]) -> None:
        """Append to ``metrics.jsonl``."""
        append_line(self.path / "metrics.jsonl", line)

    def cut_log(self, step: int) -> None:
        """Drop what was logged after ``step``: a resumed run logs it again."""
        rows = self.read_rows("metrics.jsonl")
        kept = [row for row in rows if row.get("step", 0) <= step and row.get("kind") in LOGGED]
        self.write_rows("metrics.jsonl", kept)

    def note(self, findings: Iterable[Finding]) -> None:
        """Append findings to ``findings.jsonl``."""
        for finding in findings:
            append_line(self.path / "findings.jsonl", finding.to_json())


class ReadOnlyFolder(RunFolder):
    """The folder of a run as all its processes see it but the one that writes."""

    def create(self, force: bool, fill: Callable[[RunFolder], None]) -> None:
        """The main process makes it."""

    def write_recipe(self, values: Mapping[str, Any]) -> None:
        """The main process writes it."""

    def write(self, name: str, value: Any) -> None:
        """The main process writes it."""

    def write_rows(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """The main process writes them."""

    def log(self, line: Mapping[str, Any]) -> None:
        """The main process logs it."""

    def note(self, findings: Iterable[Finding]) -> None:
        """The main process notes them."""


def jsonl(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Rows as JSON, one a line, as they come."""
    return (json.dumps(finite(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def is_run(path: Path) -> bool:
    """Whether this is the folder of a run."""
    return (path / RECIPE).is_file()


def open_run(path: Path) -> RunFolder:
    """The folder of an existing run.

    Raises:
        UserError: There is no run at this path.
    """
    if not is_run(path):
        what = f"this is not the folder of a run: it has no {RECIPE}" if path.exists() else "there is no such run"
        raise UserError(what, where=str(path), fix=runs_beside(path) or "name a folder such as runs/quickstart")
    return RunFolder(path)


def runs_beside(path: Path) -> str:
    """A hint that names the runs in the folder of ``path``, the most similar name first; empty without any."""
    names = sorted(p.parent.name for p in path.parent.glob(f"*/{RECIPE}")) if path.parent.is_dir() else []
    first = nearest(path.name, names, count=8)
    shown = first + [name for name in names if name not in first]
    return f"runs in {path.parent}: {', '.join(shown[:8])}" if names else ""
