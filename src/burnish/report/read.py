"""The files of a run folder as one plain structure; absent, half-written and damaged files leave gaps, not errors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from burnish.core.errors import UserError
from burnish.core.files import iter_lines, read_lines
from burnish.report.numbers import number

FILES = ("recipe.yaml", "model.json", "data.json", "metrics.jsonl", "evaluation.json")


UNITS = {"text": "trained token", "token-classification": "word", "extractive-qa": "window", "ranking": "pair"}
"""What the loss of a task is a mean over; a row where it is not named."""


@dataclass(frozen=True)
class Run:
    """What a run folder holds.

    Attributes:
        path: The folder.
        recipe_text: ``recipe.yaml`` as it stands.
        recipe: The same, parsed.
        environment: ``environment.json``.
        data: ``data.json``.
        model: ``model.json``.
        best: ``best.json``.
        plan: ``plan.json``: what was predicted before the weights were loaded.
        evaluation: ``evaluation.json``.
        diagnosis: ``diagnosis.json``.
        findings: ``findings.jsonl``.
        train: The log's training lines by step.
        validation: The log's validation lines by step.
        retained: The log's lines on general texts by step.
        finished: The log's last line; empty while the run is not finished.
        stopped: The log's line on why the run stopped before its end, if it did.
        predictions: ``predictions.jsonl``, read whenever it is gone through.
        samples: ``samples.jsonl``.
        handed_over: Whether ``final/`` is there.
        damaged: Files that are there and cannot be read.
    """

    path: Path
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Any] = field(default_factory=dict)
    plan: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    diagnosis: dict[str, Any] = field(default_factory=dict)
    findings: list[dict[str, Any]] = field(default_factory=list)
    train: list[dict[str, Any]] = field(default_factory=list)
    validation: list[dict[str, Any]] = field(default_factory=list)
    retained: list[dict[str, Any]] = field(default_factory=list)
    finished: dict[str, Any] = field(default_factory=dict)
    stopped: dict[str, Any] = field(default_factory=dict)
    predictions: Iterable[dict[str, Any]] = ()
    samples: list[dict[str, Any]] = field(default_factory=list)
    handed_over: bool = False
    damaged: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The run's name: its folder's, since a folder may have been moved since the recipe was written."""
        return self.path.resolve().name

    @property
    def step(self) -> int:
        """Updates done."""
        steps = [row["step"] for row in (*self.train, *self.validation)]
        return int(max(steps, default=0))

    @property
    def updates(self) -> int | None:
        """Updates planned."""
        planned = number(self.model.get("updates"))
        return int(planned) if planned is not None else None

    @property
    def metric(self) -> str:
        """The validation metric that chose the checkpoint."""
        name = self.best.get("metric") or mapping(self.recipe.get("early_stopping")).get("metric")
        return name if isinstance(name, str) else "loss"

    @property
    def best_step(self) -> int | None:
        """The step whose weights are, or so far would be, handed over."""
        known = number(self.best.get("step"))
        if known is None:
            known = next((row["step"] for row in reversed(self.validation) if row.get("improved") is True), None)
        return int(known) if known is not None else None

    @property
    def classifies(self) -> bool:
        """Whether a head beside the model was trained, in place of the words that it writes."""
        return self.model.get("task") not in (None, "text")

    @property
    def unit(self) -> str:
        """What the loss is a mean over."""
        return UNITS.get(str(self.model.get("task")), "row")

    @property
    def train_rows(self) -> int | None:
        """Rows that were learnt from."""
        known = number(mapping(mapping(self.data.get("splits")).get("train")).get("rows"))
        return int(known) if known is not None else None

    @property
    def new_rows(self) -> int:
        """Those among them that augmentation made of the others."""
        return int(number(mapping(self.data.get("augment")).get("added")) or 0)


def load_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        UserError: It holds none of a run's files.
    """
    if not any((path / name).is_file() for name in FILES):
        raise UserError("there is no run to report on", where=str(path), fix="name a folder such as runs/quickstart")
    damaged: list[str] = []
    log = _rows(path, "metrics.jsonl", damaged)
    text = _text(path / "recipe.yaml", damaged)
    return Run(
        path=path,
        recipe_text=text,
        recipe=_yaml(text, damaged),
        environment=_object(path, "environment.json", damaged),
        data=_object(path, "data.json", damaged),
        model=_object(path, "model.json", damaged),
        plan=_object(path, "plan.json", damaged),
        best=_object(path, "best.json", damaged),
        evaluation=_object(path, "evaluation.json", damaged),
        diagnosis=_object(path, "diagnosis.json", damaged),
        findings=_rows(path, "findings.jsonl", damaged),
        train=_by_step(log, "train"),
        validation=_by_step(log, "validation"),
        retained=_by_step(log, "retention"),
        finished=next((row for row in reversed(log) if row.get("kind") == "finished"), {}),
        stopped=next((row for row in reversed(log) if row.get("kind") == "stopped"), {}),
        predictions=_lines(path, "predictions.jsonl", damaged),
        samples=_rows(path, "samples.jsonl", damaged),
        handed_over=(path / "final").is_dir(),
        damaged=tuple(damaged),
    )


class Lines(Iterable[dict[str, Any]]):
    """The objects of a JSONL file, which is read whenever they are gone through.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (row for row in iter_lines(self.path) if isinstance(row, dict))


def mapping(value: Any) -> Mapping[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; nothing of anything else."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _by_step(log: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The lines of one kind in the order of their steps; of two for one step the later one holds."""
    found: dict[float, dict[str, Any]] = {}
    for row in log:
        step = number(row.get("step"))
        if row.get("kind") == kind and step is not None:
            found[step] = {**row, "step": int(step)}
    return [found[step] for step in sorted(found)]


def _text(path: Path, damaged: list[str]) -> str:
    if not path.is_file():
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        damaged.append(path.name)
        return ""


def _yaml(text: str, damaged: list[str]) -> dict[str, Any]:
    try:
        return dict(mapping(yaml.safe_load(text)))
    except yaml.YAMLError:
        damaged.append("recipe.yaml")
        return {}


def _object(path: Path, name: str, damaged: list[str]) -> dict[str, Any]:
    text = _text(path / name, damaged)
    if not text:
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        damaged.append(name)
        return {}
    return value


def _rows(path: Path, name: str, damaged: list[str]) -> list[dict[str, Any]]:
    if not (path / name).is_file():
        return []
    try:
        return [row for row in read_lines(path / name) if isinstance(row, dict)]
    except (OSError, ValueError):
        damaged.append(name)
        return []


def _lines(path: Path, name: str, damaged: list[str]) -> Iterable[dict[str, Any]]:
    if not (path / name).is_file():
        return ()
    try:
        for _ in Lines(path / name):
            pass
    except (OSError, ValueError):
        damaged.append(name)
        return ()
    return Lines(path / name)
