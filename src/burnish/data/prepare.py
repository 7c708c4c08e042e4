"""The whole way from the recipe's `data:` to token tables: read, convert, clean, split, render.

Rows are read from their files in three passes and never held: the first counts them and finds their columns, the second
keeps two hashes and a name of each, and its label in a classification, from which split, duplicates, leaks and classes
are settled, the third renders those that stay and appends them to tables. The examples of the held-out splits are kept
beside the tables, in memory or in files as these are, without the columns that nothing reads any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data import cache, kept
from burnish.data import findings as says
from burnish.data.augmenting import Growth, Method
from burnish.data.config import DataConfig
from burnish.data.conversations import Fault
from burnish.data.example import Example
from burnish.data.formats import Converted
from burnish.data.kept import JsonWriter, partial_folder
from burnish.data.keys import KeyBook, Keys
from burnish.data.labelled import Classes
from burnish.data.names import RowNames, split_name
from burnish.data.render import Kind, Rendered, Renderer
from burnish.data.replay import ReplayRows
from burnish.data.rows import MOST_DROPPED, BadRow, BadRows, Dropped, refuse_bad_rows
from burnish.data.select import Selection, State, needed_splits
from burnish.data.streams import CHUNK, SPLITS, Joined, Opened, Reread, Stream
from burnish.data.summary import source_summary, split_summary
from burnish.data.table import TokenTable
from burnish.data.tally import Tally
from burnish.data.tasks import ClassTask, Task, TextTask
from burnish.data.writer import Shelf, TableWriter


@dataclass(frozen=True)
class Prepared:
    """The data of a run.

    Attributes:
        train: Rows to learn from.
        validation: Rows to choose by; empty if none were asked for.
        test: Rows to measure on; empty if none were asked for.
        examples: The examples of each split, one per row of its table and in its order. Those of the training split
            are read from their files whenever they are asked for, those of large held-out splits from the disk.
        findings: What there is to say; one of severity ``stop`` refuses the run (`core.findings.refuse_stops`).
        summary: All of it as JSON, for `data.json`.
        renderer: What made the tokens, for prompts that are to look the same.
        augmented: The new rows among those to learn from, which come last; each says where it comes from.
        replay: General rows that are trained on beside them, where the recipe asks for any.
    """

    train: TokenTable
    validation: TokenTable
    test: TokenTable
    examples: Mapping[str, Sequence[Example]]
    findings: list[Finding]
    summary: dict[str, Any]
    renderer: Renderer
    augmented: Sequence[Example] = ()
    replay: ReplayRows | None = None

    def table(self, split: str) -> TokenTable:
        """The table of a split by its name."""
        tables = {"train": self.train, "validation": self.validation, "test": self.test}
        if split not in tables:
            raise UserError(f"there is no split `{split}`", fix="one of: " + ", ".join(f"`{s}`" for s in SPLITS))
        return tables[split]


def prepare(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    seed: int,
    base: Path | None = None,
    *,
    classes: Classes | None = None,
    task: Task | None = None,
    augment: Sequence[Method] = (),
    chunk: int = CHUNK,
    in_memory: int | None = None,
) -> Prepared:
    """Read, convert, clean, split and render the data of a run. Equal arguments and files give equal tables.

    Args:
        config: The recipe's `data:`.
        tokenizer: The model's tokenizer with its chat template.
        kind: ``causal`` or ``seq2seq``.
        seed: The run's seed.
        base: Folder that relative paths start at; the working folder if None.
        classes: What a classification asks for; None to learn text.
        task: What is learnt, where it is neither.
        augment: What makes new training rows, one for each entry of `data.augment`.
        chunk: Rows that are held at a time; it changes nothing else.
        in_memory: Bytes of tables and held-out examples that stay in memory, ``kept.IN_MEMORY`` unless it is given; it
            changes nothing else.

    Raises:
        UserError: A source or a row is wrong (all wrong rows at once), or a set is or becomes empty.
    """
    if len(augment) != len(config.augment):
        raise ValueError(f"`data.augment` has {len(config.augment)} entries, and {len(augment)} methods were given")
    opened = Opened.of(config, base, task or (TextTask() if classes is None else ClassTask(classes)))
    renderer_of = lru_cache(1)(partial(opened.task.renderer, tokenizer, config.render, kind))
    key = cache.key_of(config, tokenizer, kind, seed, opened, [method.fingerprint() for method in augment])
    stored, notes = cache.find(key) if key else (None, [])
    if stored is None:
        with partial_folder() as folder:
            shelf = Shelf(folder, kept.IN_MEMORY if in_memory is None else in_memory)
            stored = _Preparation(config, renderer_of, seed, opened, chunk, Growth(augment)).run(shelf)
            if shelf.on_disk and key:
                cache.keep(stored, folder, key)
    streams, new = partial(_chunks_again, opened, chunk), stored.examples.get("augmented", ())
    numbers = stored.tables["train"][1]
    train = Joined(Reread(streams, numbers[: len(numbers) - len(new)]), new) if new else Reread(streams, numbers)
    tables = {name: replace(stored.tables[name][0], task_names=config.tasks) for name in SPLITS}
    return Prepared(
        tables["train"],
        tables["validation"],
        tables["test"],
        examples={**{name: stored.examples[name] for name in SPLITS[1:]}, "train": train},
        findings=[*notes, *stored.findings],
        summary=stored.summary,
        renderer=renderer_of(stored.labels),
        augmented=new,
    )


def _chunks_again(opened: Opened, chunk: int) -> Iterator[Converted]:
    """One more pass over the training examples, of the same files as before."""
    opened.refuse_changes()
    streams = [stream for stream in opened.streams() if stream.part == "train"]
    return chain.from_iterable(stream.chunks(chunk) for stream in streams)


@dataclass
class _Preparation:
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
        keys = self._keys()
        columns = list(dict.fromkeys(c for s in self.streams if s.part == "train" for c in s.read.columns))
        selection = Selection(self.state, self.config, self.seed, keys, columns)
        goals = selection.choose()
        labels = self.opened.task.settle(selection.labels())
        new = self._augment(goals["train"], keys) if self.growth.methods else []
        del keys, selection
        rendering = _Rendering(self.renderer_of(labels), shelf, self.state, self.config.tasks)
        try:
            for part in SPLITS:
                rendering.run(self._chunks(part), goals[part])
            self._add(new, rendering, len(goals["train"]))
            self.opened.refuse_changes()
            return self._finish(rendering, labels)
        finally:
            shelf.close()

    def _chunks(self, part: str) -> Iterator[list[Example]]:
        for stream in self.streams:
            if stream.part == part:
                yield from (converted.examples for converted in stream.chunks(self.chunk))

    def _augment(self, goals: NDArray[np.uint8], keys: Mapping[str, Keys]) -> list[Example]:
        """New rows, made of the training rows alone; none has the prompt of a row that there is, in any split."""
        taken = np.concatenate([keys[name].prompts for name in SPLITS])
        examples = chain.from_iterable(self._chunks("train"))
        return self.growth.run((e for e, goal in zip(examples, goals, strict=True) if goal == 1), taken)

    def _add(self, new: list[Example], rendering: _Rendering, start: int) -> None:
        """Put the new rows behind the training rows, some at a time."""
        for first in range(0, len(new), self.chunk):
            some = new[first : first + self.chunk]
            rendering.add_new(some, np.arange(start + first, start + first + len(some)))
        self.growth.rendered(rendering.new, new)
        self.state.findings += self.growth.findings()

    def _keys(self) -> dict[str, Keys]:
        """The pass that hashes; the wrong rows of all sources are refused at once."""
        split = self.config.split
        read = {name: sum(s.read.rows for s in self.streams if s.part == name) for name in SPLITS}
        label = self.opened.task.label_of if self.opened.task.asked is not None else None
        books = {n: KeyBook(read[n], split.group or split.stratify, label=label) for n in SPLITS}
        bad = BadRows()
        for stream in self.streams:
            bad.extend(stream.read.bad)
            dropped = 0
            for converted in stream.chunks(self.chunk):
                for wrong in converted.bad:
                    bad.add(wrong)
                for row in converted.dropped:
                    self.state.dropped[stream.part].add(row)
                dropped += len(converted.dropped)
                books[stream.part].add(converted.examples)
            config = stream.source.config
            self.state.sources.append(source_summary(stream.part, config, stream.read, stream.plan, dropped))
            self.state.findings += says.source_findings(config, stream.read, stream.plan)
        self.state.steps.append({"step": "read", **read})
        refuse_bad_rows(bad)
        return {name: book.finish() for name, book in books.items()}

    def _finish(self, rendering: _Rendering, labels: tuple[str, ...]) -> cache.Stored:
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


class _Rendering:
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

    def run(self, chunks: Iterator[list[Example]], goals: NDArray[np.uint8]) -> None:
        """Render the examples of one part.

        Args:
            chunks: They, some at a time.
            goals: [N] the split of each, counted from 1; 0 for none.
        """
        start = 0
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
        for place, (example, outcome) in enumerate(zip(examples, self.renderer.render_all(examples), strict=True)):
            if isinstance(outcome, (Rendered, tuple)):
                for row in outcome if isinstance(outcome, tuple) else (outcome,):
                    kept.append(place)
                    rows.append(row)
                    tally.add(example, row)
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
