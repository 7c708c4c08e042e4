"""The examples of a recipe's sources, read again in every pass and never held."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.data.config import ChatMode, DataConfig, SourceConfig
from burnish.data.example import Example
from burnish.data.formats import Converted, Plan, convert
from burnish.data.readers import Seen
from burnish.data.rows import Read
from burnish.data.sources import DataFile, OpenSource, open_source
from burnish.data.tasks import Task, TextTask

SPLITS = ("train", "validation", "test")
CHUNK = 1024
"""Rows that are held at a time, and tokenised together."""


@dataclass(frozen=True)
class Stream:
    """The examples of one source.

    Attributes:
        part: The split that the source is for.
        source: Its files.
        read: What the first pass found.
        plan: How its rows are read.
        names: Shorter names of files.
    """

    part: str
    source: OpenSource
    read: Read
    plan: Plan
    names: Mapping[str, str]

    def chunks(self, size: int, part: int | None = None) -> Iterator[Converted]:
        """Examples in order, some at a time, each time with the rows that gave none.

        Args:
            size: Rows at a time.
            part: The file to read, by its place among those of the source; all of them without it.
        """
        rows = self.source.rows() if part is None else self.source.parts[part].rows(Seen())
        while chunk := list(islice(rows, size)):
            yield convert(chunk, self.plan, self.names, self.source.config.task)


@dataclass(frozen=True)
class Opened:
    """The sources of a recipe, found but not read.

    Attributes:
        sources: Each with the split that it is for.
        chat: Use of the chat template.
        task: What is learnt from the rows, which decides how their columns are read.
        stamps: Sizes and times of all files when they were found.
    """

    sources: Sequence[tuple[str, OpenSource]]
    chat: ChatMode
    task: Task
    stamps: Sequence[tuple[int, int]]

    @classmethod
    def of(cls, config: DataConfig, base: Path | None, task: Task | None = None) -> Opened:
        """Find the files of every source; without a task they are learnt as text.

        Raises:
            UserError: Nothing is there.
        """
        given: list[tuple[str, SourceConfig]] = [("train", s) for s in config.train_sources]
        given += [(name, s) for name in SPLITS[1:] if (s := getattr(config, name)) is not None]
        sources = [(part, open_source(source, base)) for part, source in given]
        return cls(sources, config.render.chat, task or TextTask(), _stamps(sources))

    @property
    def paths(self) -> list[Path]:
        """The files on the disk."""
        return [part.path for _, source in self.sources for part in source.parts if isinstance(part, DataFile)]

    def refuse_changes(self) -> None:
        """Refuse files that were written to since they were found: the passes would have read different rows.

        Raises:
            UserError: Naming the file.
        """
        parts = [part for _, source in self.sources for part in source.parts]
        for part, before, now in zip(parts, self.stamps, _stamps(self.sources), strict=True):
            if before != now:
                raise UserError("the file was changed while it was read", where=part.name, fix="start again")

    def streams(self, found: Sequence[Read] | None = None) -> list[Stream]:
        """Settle how the rows of every source are read, from a first pass over it.

        Args:
            found: What the first pass found in each source; without it every source is read now.

        Raises:
            UserError: A file cannot be read, or a source's format is not recognised.
        """
        found = found or [source.scan() for _, source in self.sources]
        reads = [(part, source, read) for (part, source), read in zip(self.sources, found, strict=True)]
        names = short_names([f.path for _, _, read in reads for f in read.files])
        return [Stream(part, source, read, self._plan(source, read), names) for part, source, read in reads]

    def _plan(self, source: OpenSource, read: Read) -> Plan:
        if not read.rows:  # all of them are wrong, which is said when every source has been read
            return Plan("text", "", False)
        return self.task.plan(source.config, read, self.chat)


class Reread(Sequence[Example]):
    """Examples that are read from their files whenever they are asked for.

    Args:
        chunks: Starts a pass over the examples of the source.
        numbers: [N] ascending, which of them these are.
    """

    def __init__(self, chunks: Callable[[], Iterator[Converted]], numbers: NDArray[np.uint32]) -> None:
        self.chunks, self.numbers = chunks, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[Example]:
        start = taken = 0
        for converted in self.chunks() if len(self) else ():
            end = start + len(converted.examples)
            stop = int(np.searchsorted(self.numbers, end))
            yield from (converted.examples[int(n) - start] for n in self.numbers[taken:stop])
            start, taken = end, stop
            if taken == len(self):
                return

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return list(Reread(self.chunks, self.numbers[index])) if (index.step or 1) > 0 else list(self)[index]
        return next(iter(Reread(self.chunks, self.numbers[range(len(self))[index] :][:1])))


class Joined(Sequence[Example]):
    """Examples that are read again, and behind them others that are held.

    Args:
        first: Those that are read.
        second: Those that are held.
    """

    def __init__(self, first: Reread, second: Sequence[Example]) -> None:
        self.first, self.second = first, second

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __iter__(self) -> Iterator[Example]:
        yield from self.first
        yield from self.second

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example]: ...
    def __getitem__(self, index: int | slice) -> Example | list[Example]:
        if isinstance(index, slice):
            return list(self)[index]
        place = range(len(self))[index]
        border = len(self.first)
        return self.first[place] if place < border else self.second[place - border]


def some_of(examples: Sequence[Example], rows: Sequence[int]) -> list[Example]:
    """Examples by their numbers, in the order given; those that are read from files again are read in one pass."""
    if not isinstance(examples, (Reread, Joined)):
        return [examples[row] for row in rows]
    wanted = set(rows)
    found = {i: e for i, e in enumerate(islice(examples, max(wanted, default=-1) + 1)) if i in wanted}
    return [found[row] for row in rows]


def short_names(files: Sequence[str]) -> dict[str, str]:
    """Files by their path below the folder that all of them share; names that are no paths stay as they are."""
    paths = sorted({f for f in files if os.path.isabs(f)})
    if not paths:
        return {}
    common = os.path.commonpath([os.path.dirname(p) for p in paths])
    return {p: Path(os.path.relpath(p, common)).as_posix() for p in paths}


def _stamps(sources: Sequence[tuple[str, OpenSource]]) -> list[tuple[int, int]]:
    return [part.stamp() for _, source in sources for part in source.parts]
