"""The three passes of a preparation over the rows of all sources: count, hash, render."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.data import cache
from burnish.data import findings as says
from burnish.data.augmenting import Growth
from burnish.data.config import DataConfig
from burnish.data.conversations import Fault
from burnish.data.example import Example
from burnish.data.kept import JsonWriter
from burnish.data.keys import KeyBook, Keys, joined
from burnish.data.names import RowNames, split_name
from burnish.data.render import Rendered, Renderer
from burnish.data.rows import MOST_DROPPED, BadRow, BadRows, Dropped, DroppedRows, refuse_bad_rows
from burnish.data.select import Selection, State, needed_splits
from burnish.data.streams import SPLITS, Opened, Stream
from burnish.data.summary import source_summary, split_summary
from burnish.data.table import TokenTable
from burnish.data.tally import Tally
from burnish.data.writer import Shelf, TableWriter


@dataclass(frozen=True)
class Hashed:
    """What the pass that hashes keeps of some rows.

    Attributes:
        keys: Of each example.
        bad: Rows that are wrong.
        dropped: Rows that have nothing to learn from.
    """

    keys: Keys
    bad: BadRows
    dropped: DroppedRows


@dataclass
class Preparation:
    """One preparation, pass by pass."""

    config: DataConfig
    renderer_of: Callable[[tuple[str, ...]], Renderer]
    seed: int
    opened: Opened
    chunk: int
    growth: Growth
    state: State = field(default_factory=State)
    streams: list[Stream] = field(default_factory=list)

    def run(self, shelf: Shelf) -> cache.Stored:
        """All of it; large tables are written to the shelf's folder."""
        self.streams = self.opened.streams()
        keys = self.keys([self.hash_rows(stream, stream.read.rows) for stream in self.streams])
        goals, labels = self.select(keys)
        new = self._augment(goals["train"], keys) if self.growth.methods else []
        del keys
        rendering = Rendering(self.renderer_of(labels), shelf, self.state, self.config.tasks)
        try:
            for part in SPLITS:
                rendering.run(self._chunks(part), goals[part])
            self._add(new, rendering, len(goals["train"]))
            self.opened.refuse_changes()
            return self.finish(rendering, labels)
        finally:
            shelf.close()

    def _chunks(self, part: str) -> Iterator[list[Example]]:
        for stream in self.streams:
            if stream.part == part:
                yield from (converted.examples for converted in stream.chunks(self.chunk))

    def select(self, keys: dict[str, Keys]) -> tuple[dict[str, NDArray[np.uint8]], tuple[str, ...]]:
        """What becomes of the examples of each part, and the names of the classes.

        Args:
            keys: What is known of them.
        """
        columns = list(dict.fromkeys(c for s in self.streams if s.part == "train" for c in s.read.columns))
        selection = Selection(self.state, self.config, self.seed, keys, columns)
        goals = selection.choose()
        return goals, self.opened.task.settle(selection.labels())

    def _augment(self, goals: NDArray[np.uint8], keys: Mapping[str, Keys]) -> list[Example]:
        """New rows, made of the training rows alone; none has the prompt of a row that there is, in any split."""
        taken = np.concatenate([keys[name].prompts for name in SPLITS])
        examples = chain.from_iterable(self._chunks("train"))
        return self.growth.run((e for e, goal in zip(examples, goals, strict=True) if goal == 1), taken)

    def _add(self, new: list[Example], rendering: Rendering, start: int) -> None:
        """Put the new rows behind the training rows, some at a time."""
        for first in range(0, len(new), self.chunk):
            some = new[first : first + self.chunk]
            rendering.add_new(some, np.arange(start + first, start + first + len(some)))
        self.growth.rendered(rendering.new, new)
        self.state.findings += self.growth.findings()

    def hash_rows(self, stream: Stream, rows: int, part: int | None = None) -> Hashed:
        """The pass that hashes, over a source or one file of it.

        Args:
            stream: The source.
            rows: How many rows there are.
            part: The file, by its place in the source.
        """
        book, bad, dropped = self._book(rows), BadRows(), DroppedRows()
        for converted in stream.chunks(self.chunk, part):
            for wrong in converted.bad:
                bad.add(wrong)
            for row in converted.dropped:
                dropped.add(row)
            book.add(converted.examples)
        return Hashed(book.finish(), bad, dropped)

    def keys(self, hashed: Sequence[Hashed]) -> dict[str, Keys]:
        """The keys of each part; the wrong rows of all sources are refused at once.

        Args:
            hashed: What the pass that hashes found in each source.
        """
        bad, parts = BadRows(), {name: [self._book(0).finish()] for name in SPLITS}
        for stream, found in zip(self.streams, hashed, strict=True):
            bad.extend(stream.read.bad)
            bad.extend(found.bad)
            self.state.dropped[stream.part].extend(found.dropped)
            parts[stream.part].append(found.keys)
            config, count = stream.source.config, found.dropped.count
            self.state.sources.append(source_summary(stream.part, config, stream.read, stream.plan, count))
            self.state.findings += says.source_findings(config, stream.read, stream.plan)
        read = {name: sum(s.read.rows for s in self.streams if s.part == name) for name in SPLITS}
        self.state.steps.append({"step": "read", **read})
        refuse_bad_rows(bad)
        return {name: joined(found[1:] or found) for name, found in parts.items()}

    def _book(self, rows: int) -> KeyBook:
        split, task = self.config.split, self.opened.task
        label = task.label_of if task.asked is not None else None
        return KeyBook(rows, split.group or split.stratify, label=label)

    def finish(self, rendering: Rendering, labels: tuple[str, ...]) -> cache.Stored:
        """Whole tables, and what there is to say of them."""
        state, renderer, task = self.state, rendering.renderer, self.opened.task
        refuse_bad_rows(rendering.all_bad(), what="when they were rendered")
        files = tuple(rendering.files)
        tables = {name: writer.finish(files) for name, writer in rendering.writers.items()}
        state.counts = {name: len(table) for name, (table, _) in tables.items()}
        state.step("render", needed_splits(self.config))
        for name in SPLITS:
            tally = rendering.tallies[name]
            state.findings += says.render_findings(name, tally, state.dropped[name], self.config)
            state.findings += task.look_again(name, tally.sample, renderer)
        splits = {
            name: split_summary(tables[name][0], rendering.tallies[name], state.dropped[name], renderer.tokenizer)
            for name in SPLITS
        }
        state.findings += task.describe(splits, {name: table for name, (table, _) in tables.items()}, labels)
        summary = self._summary(splits)
        examples: dict[str, Sequence[Example]] = {n: rows.finish() for n, rows in rendering.held_out.items()}
        if self.growth.methods:
            summary["augment"], examples["augmented"] = self.growth.summary(rendering.new), rendering.new
        return cache.Stored(tables, examples, state.findings, summary, labels)

    def _summary(self, splits: dict[str, Any]) -> dict[str, Any]:
        state, split = self.state, self.config.split
        dropped = [{"split": name, **d.to_json()} for name in SPLITS for d in state.dropped[name].first]
        return {
            "sources": state.sources,
            "steps": state.steps,
            "split": {
                "seed": split.seed if split.seed is not None else self.seed,
                "group": split.group,
                "stratify": split.stratify,
            },
            "splits": splits,
            "duplicates": state.duplicates,
            "leaks": state.leaks,
            "n_dropped": sum(rows.count for rows in state.dropped.values()),
            "dropped": dropped[:MOST_DROPPED],
            "render": self.config.render.model_dump(mode="json"),
        }


class Rendering:
    """The pass that renders: examples in, rows of tables out.

    Attributes:
        writers: The growing table of each split.
        tallies: What is counted of it.
        held_out: The examples of validation and test, without their raw columns.
        files: The names of all files, by place.
        tasks: The tasks that sources name.
        new: The rows that augmentation has added.
    """

    def __init__(self, renderer: Renderer, shelf: Shelf, state: State, tasks: tuple[str, ...]) -> None:
        self.renderer, self.dropped, self.tasks = renderer, state.dropped, tasks
        self.writers: dict[str, TableWriter] = {name: shelf.writer(name) for name in SPLITS}
        self.tallies = {name: Tally() for name in SPLITS}
        self.held_out = {name: JsonWriter(shelf, f"{name}.{cache.EXAMPLE}", cache.EXAMPLES) for name in SPLITS[1:]}
        self.files: dict[str, int] = {}
        self.bad = {name: BadRows() for name in SPLITS}
        self.new: list[Example] = []

    def run(self, chunks: Iterator[list[Example]], goals: NDArray[np.uint8], start: int = 0) -> None:
        """Render the examples of one part.

        Args:
            chunks: They, some at a time.
            goals: [N] the split of each example of the part, counted from 1; 0 for none.
            start: The number of the first one that is given.
        """
        for examples in chunks:
            here = goals[start : start + len(examples)]
            for place, name in enumerate(SPLITS, 1):
                chosen = np.flatnonzero(here == place)
                if len(chosen):
                    self._render(name, [examples[i] for i in chosen], chosen + start)
            start += len(examples)

    def add_new(self, examples: list[Example], numbers: NDArray[np.int64]) -> None:
        """Render new training rows."""
        self.new += self._render("train", examples, numbers)

    def _render(self, name: str, examples: list[Example], numbers: NDArray[np.int64]) -> list[Example]:
        """Tokens of some rows of a split; rows that cannot be rendered are noted, those without a target dropped."""
        tally, kept, rows = self.tallies[name], [], []
        outcomes = self.renderer.render_all(examples)
        for place, (example, outcome) in enumerate(zip(examples, outcomes, strict=True)):
            if isinstance(outcome, (Rendered, tuple)):
                for row in outcome if isinstance(outcome, tuple) else (outcome,):
                    kept.append(place)
                    rows.append(row)
                    tally.add(example, row, int(numbers[place]))
            elif isinstance(outcome, Dropped):
                self.dropped[name].add(outcome)
            else:
                self.bad[name].add(_bad_row(example, outcome))
        stay = [examples[place] for place in kept]
        if name in self.held_out:
            bare = [replace(example, fields={}) for example in examples]  # windows of one example share it
            self.held_out[name].append(bare[place] for place in kept)
        tasks = [example.task for example in stay]
        table = TokenTable.build(RowNames.of((e.id for e in stay), self.files), rows, tasks, self.tasks)
        self.writers[name].append(table, numbers[kept])
        return stay

    def all_bad(self) -> BadRows:
        """Rows that cannot be rendered, split by split."""
        bad = BadRows()
        for rows in self.bad.values():
            bad.extend(rows)
        return bad


def _bad_row(example: Example, fault: Fault) -> BadRow:
    file, line = split_name(example.id)
    return BadRow(file, line, fault.field, fault.expected, fault.found, fault.fix)
