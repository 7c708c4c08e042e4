"""Which row goes into which split: settled after the first pass, by number, without the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data import duplicates as duplicate
from burnish.data import findings as says
from burnish.data.config import DataConfig
from burnish.data.keys import Keys
from burnish.data.rows import DroppedRows
from burnish.data.splits import Values, check_column, choose_rows, split_rows
from burnish.data.streams import SPLITS

_CURES = {
    "convert": "give rows with a prompt and a target, or map the columns in the recipe",
    "duplicates": "give rows that differ, or set `data.duplicates: keep`",
    "split": "ask for other amounts under `data.split`",
    "leaks": "give evaluation rows of their own, or set `data.on_leak: warn`",
    "render": "raise `data.render.max_length`, or give rows with a target",
}


@dataclass
class State:
    """What is being prepared: the counts of each split, and what was noted on the way."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SPLITS, 0))
    dropped: dict[str, DroppedRows] = field(default_factory=lambda: {name: DroppedRows() for name in SPLITS})
    findings: list[Finding] = field(default_factory=list)
    sources: list[dict[str, Any]] = field(default_factory=list)
    steps: list[dict[str, Any]] = field(default_factory=list)
    duplicates: dict[str, dict[str, int]] = field(default_factory=dict)
    leaks: dict[str, int] = field(default_factory=dict)

    def step(self, name: str, needed: Sequence[str]) -> None:
        """Note the counts after a step, and refuse a needed split that it emptied."""
        self.steps.append({"step": name, **self.counts})
        for part in needed:
            if not self.counts[part]:
                trail = " → ".join(f"{s['step']} {s[part]:,}" for s in self.steps)
                reasons = "; ".join(dict.fromkeys(d.reason for d in self.dropped[part].first[:5]))
                raise UserError(
                    f"the {part} set is empty after the step `{name}`" + (f": {reasons}" if reasons else ""),
                    where=f"data.{part}: rows after each step: {trail}",
                    fix=_CURES.get(name, "give more rows"),
                )


@dataclass(frozen=True)
class Rows:
    """The rows of a split: the sources that they come from, and their numbers there, ascending."""

    part: str
    numbers: NDArray[np.int64]

    def at(self, places: NDArray[Any]) -> Rows:
        """Some of them."""
        return Rows(self.part, self.numbers[places])


def needed_splits(config: DataConfig) -> list[str]:
    """Training, and whatever evaluation splits the recipe asks for."""
    asked = [n for n in SPLITS[1:] if getattr(config, n) is not None or getattr(config.split, n)]
    return ["train", *asked]


@dataclass
class Selection:
    """Chooses the rows of every split.

    Attributes:
        state: Told of every step.
        config: The recipe's `data:`.
        seed: The run's seed.
        keys: What is known of the examples of each source.
        columns: The columns of the training sources.
        rows: The rows of each split so far.
    """

    state: State
    config: DataConfig
    seed: int
    keys: dict[str, Keys]
    columns: Sequence[str]
    rows: dict[str, Rows] = field(default_factory=dict)

    def choose(self) -> dict[str, NDArray[np.uint8]]:
        """Drop duplicates, split, drop leaks, and take the training rows that were asked for.

        Returns:
            For each part what becomes of its examples: 0 for nothing, else 1 + the place of its split in ``SPLITS``.
        """
        needed = needed_splits(self.config)
        given = [n for n in needed if n == "train" or getattr(self.config, n) is not None]
        self.rows = {name: Rows(name, np.arange(len(self.keys[name]))) for name in SPLITS}
        self._step("convert", given)
        for name in given:
            self._deduplicate(name)
        self._step("duplicates", given)
        self._split()
        self._step("split", needed)
        self._remove_leaks()
        self._step("leaks", needed)
        if self.config.train_rows is not None:
            self._take(self.config.train_rows)
        goals = {name: np.zeros(len(self.keys[name]), dtype=np.uint8) for name in SPLITS}
        for place, name in enumerate(SPLITS, 1):
            goals[self.rows[name].part][self.rows[name].numbers] = place
        return goals

    def labels(self) -> dict[str, Values]:
        """The labels of the rows of each split; empty where the task is not a classification."""
        known = {name: (rows, self.keys[rows.part].labels) for name, rows in self.rows.items()}
        return {name: labels.at(rows.numbers) for name, (rows, labels) in known.items() if labels is not None}

    def _step(self, name: str, needed: Sequence[str]) -> None:
        self.state.counts = {split: len(rows.numbers) for split, rows in self.rows.items()}
        self.state.step(name, needed)

    def _deduplicate(self, name: str) -> None:
        keys = self.keys[name]
        found = duplicate.find_duplicates(keys.rows, keys.prompts, keys.names)
        self.state.duplicates[name] = {
            "copies": found.n_copies,
            "repeated_prompts": found.repeated_prompts,
            "conflicting_prompts": found.n_conflicts,
        }
        self.state.findings += says.duplicate_findings(name, found, self.config)
        if self.config.duplicates == "drop":
            self.rows[name] = Rows(name, found.unique)
        keys.rows = np.empty((0, 2), np.uint64)  # half of what is kept of a row is needed no more

    def _split(self) -> None:
        held = {name: getattr(self.config, name) is None for name in SPLITS[1:]}
        whole, values = self.rows["train"], self.keys["train"].values
        check_column(self.columns, self.config.split)
        values = values.at(whole.numbers) if values else None
        parts = split_rows(len(whole.numbers), self.config.split, seed=self.seed, values=values, **held)
        self.rows |= {name: whole.at(places) for name, places in parts.items() if name == "train" or held[name]}

    def _remove_leaks(self) -> None:
        """Compare each split with those that are measured on after it; the measured set keeps the row."""
        for part, other in (("validation", "test"), ("train", "validation"), ("train", "test")):
            if not len(self.rows[part].numbers) or not len(self.rows[other].numbers):
                continue
            ours, theirs = self._given(part), self._given(other)
            leaks = duplicate.find_leaks(ours[0], theirs[0], ours[1], theirs[1])
            if not len(leaks.rows):
                continue
            self.state.leaks[f"{part} in {other}"] = len(leaks.rows)
            self.state.findings.append(says.leak_finding(part, other, leaks, self.config.on_leak))
            if self.config.on_leak == "drop":
                stays = np.ones(len(self.rows[part].numbers), dtype=np.bool_)
                stays[leaks.rows] = False
                self.rows[part] = self.rows[part].at(stays)

    def _given(self, split: str) -> tuple[duplicate.Hashes, Sequence[str]]:
        rows = self.rows[split]
        keys = self.keys[rows.part]
        return keys.prompts[rows.numbers], keys.names.at(rows.numbers)

    def _take(self, count: int) -> None:
        there = len(self.rows["train"].numbers)
        if count > there:
            self.state.findings.append(
                Finding(
                    "warning",
                    "data.fewer-rows",
                    f"`data.train_rows` asks for {count:,} rows, but training has {there:,}",
                    where="data.train_rows",
                    fix="Ask for fewer, or give more.",
                    evidence={"asked": count, "rows": there},
                )
            )
        self.rows["train"] = self.rows["train"].at(choose_rows(there, count, seed=self.seed))
        self._step("train_rows", ["train"])
