"""Rows prepared by several processes, each file read by one of them; what comes of it is what one process makes.

The files of all sources are dealt out. Each process makes the three passes over its own: between them the processes
tell one another what a pass kept of the rows, so that all know what becomes of which row. The main one puts the tables
together, file by file in the recipe's order, and keeps them where `prepare` finds them. Nothing in them, nor in the
order of the training that follows from them, depends on how many processes there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from burnish.core.dealing import takers
from burnish.core.findings import Finding
from burnish.core.processes import Crew, T
from burnish.data import cache, digests
from burnish.data.augmenting import Growth
from burnish.data.config import DataConfig
from burnish.data.kept import JsonRows, home, partial_folder
from burnish.data.keys import joined
from burnish.data.names import RowNames
from burnish.data.passes import Hashed, Preparation, Rendering
from burnish.data.render import Kind
from burnish.data.rows import BadRows, DroppedRows, Read
from burnish.data.select import State
from burnish.data.sources import DataFile, scan_part
from burnish.data.streams import CHUNK, SPLITS, Opened
from burnish.data.tally import Tally
from burnish.data.tasks import Task, TextTask
from burnish.data.writer import Shelf

Place = tuple[int, int]
"""A file: the place of its source, and its own among those of the source."""


@dataclass(frozen=True)
class FilePart:
    """What one process made of one file.

    Attributes:
        taker: The process.
        rows: By split, the stretch of its table.
        examples: By split, the stretch of its held-out examples.
        bad: By split, rows that cannot be rendered.
        dropped: By split, rows that have nothing to learn from.
    """

    taker: int
    rows: Mapping[str, tuple[int, int]]
    examples: Mapping[str, tuple[int, int]]
    bad: Mapping[str, BadRows]
    dropped: Mapping[str, DroppedRows]


@dataclass(frozen=True)
class Left:
    """What one process left in its folder.

    Attributes:
        files: The names of the files, as its tables count them.
        lengths: Of the arrays of its tables, by split.
        examples: Of its held-out examples, by split.
        tallies: What it counted, by split.
        whole: Whether all held-out examples could be written.
    """

    files: tuple[str, ...]
    lengths: Mapping[str, Mapping[str, int]]
    examples: Mapping[str, Mapping[str, int]]
    tallies: Mapping[str, Tally]
    whole: bool


def prepare_together(
    config: DataConfig,
    tokenizer: PreTrainedTokenizerBase,
    kind: Kind,
    seed: int,
    crew: Crew,
    base: Path | None = None,
    *,
    task: Task | None = None,
    chunk: int = CHUNK,
) -> list[Finding]:
    """Prepare the data of a run by all of its processes, and keep it: `prepare` with the same arguments finds it.

    All of them ask together. Where the files cannot be dealt out nothing is done, and why is said: every process then
    reads all of them.

    Args:
        config: The recipe's `data:`.
        tokenizer: The model's tokenizer.
        kind: ``causal``, ``seq2seq`` or ``encoder``.
        seed: The run's seed.
        crew: The processes.
        base: Folder that relative paths start at; the working folder if None.
        task: What is learnt.
        chunk: Rows that are held at a time.

    Returns:
        A note of how the files are read.

    Raises:
        UserError: A source or a row is wrong, in any process.
    """
    if crew.size == 1:
        return []
    opened = Opened.of(config, base, task or TextTask())
    places = [(s, p) for s, (_, source) in enumerate(opened.sources) for p in range(len(source.parts))]
    why = _hindrance(config, places, crew) or _not_shared(crew)
    if why:
        return [_read_by_all(why)]
    sizes = [part.stamp()[0] for _, source in opened.sources for part in source.parts]
    shares = takers(np.asarray(sizes, np.int64), crew.size).tolist()
    own = [place for place, taker in zip(places, shares, strict=True) if taker == crew.rank]
    for known in everyones(crew, lambda: [digests.told(_paths(opened, own))]):
        digests.learn(known)
    key = cache.key_of(config, tokenizer, kind, seed, opened)
    if key is None:
        return [_read_by_all("what their rows become cannot be kept and found again")]
    notes = _check_together(key, crew)
    if notes is None:
        return []
    with partial_folder() as mine:
        folder = crew.of_main(mine)
        renderer_of = partial(opened.task.renderer, tokenizer, config.render, kind)
        made = DealtPreparation(config, renderer_of, seed, opened, chunk, Growth(()), crew=crew, own=own, folder=folder)
        if not made.run_together(key):
            return [*notes, _read_by_all("some of their values cannot be written as JSON")]
    cache.hold(key, made_now=True)
    most = max(shares.count(rank) for rank in range(crew.size))
    what = f"{len(places)} files were read by {crew.size} processes, each file by one and at most {most} by each"
    return [*notes, Finding("note", "data.read-dealt", what, where="data", fix="")]


def everyones(crew: Crew, action: Callable[[], list[T]]) -> list[T]:
    """Let every process do its part, and give all what all of them found; a refusal in one is raised in all."""
    return crew.collected(crew.together(action))


@dataclass
class DealtPreparation(Preparation):
    """One process's part in a preparation.

    Attributes:
        crew: The processes.
        own: The files of this one.
        folder: Where all of them write.
    """

    crew: Crew = field(kw_only=True)
    own: Sequence[Place] = field(kw_only=True)
    folder: Path = field(kw_only=True)

    def run_together(self, key: str) -> bool:
        """All passes; False where the rows cannot be kept."""
        self.streams = self.opened.streams(self._scanned())
        hashed = self._by_place(lambda s, p: self.hash_rows(self.streams[s], self.streams[s].read.files[p].rows, p))
        keys = self.keys([_joined(parts) for parts in self._by_source(hashed)])
        starts = self._starts(hashed)
        del hashed
        goals, labels = self.select(keys)
        del keys
        parts, left = self._rendered(labels, goals, starts)
        if not all(one.whole for one in left):
            return False
        return bool(self.crew.of_main(self.crew.on_main(partial(self._put_together, parts, left, labels, key))))

    def _by_place(self, work: Callable[[int, int], T]) -> dict[Place, T]:
        """Something of every file, found by the process that reads it; in the order of the files."""
        found = everyones(self.crew, lambda: [(place, work(*place)) for place in self.own])
        return dict(sorted(found, key=lambda one: one[0]))

    def _by_source(self, found: Mapping[Place, T]) -> list[list[T]]:
        return [[value for (s, _), value in found.items() if s == source] for source in range(len(self.opened.sources))]

    def _scanned(self) -> list[Read]:
        found = self._by_place(lambda s, p: scan_part(self.opened.sources[s][1].parts[p]))
        reads = zip(self.opened.sources, self._by_source(found), strict=True)
        return [source.scanned(parts) for (_, source), parts in reads]

    def _starts(self, hashed: Mapping[Place, Hashed]) -> dict[Place, int]:
        """The number of the first example of each file among those of its part."""
        found, counts = {}, dict.fromkeys(SPLITS, 0)
        for place, one in hashed.items():
            part = self.streams[place[0]].part
            found[place] = counts[part]
            counts[part] += len(one.keys)
        return found

    def _rendered(
        self, labels: tuple[str, ...], goals: Mapping[str, NDArray[np.uint8]], starts: Mapping[Place, int]
    ) -> tuple[dict[Place, FilePart], list[Left]]:
        """The pass that renders, over this process's files, into its own folder."""
        shelf = _on_disk(self.folder / str(self.crew.rank))
        rendering = Rendering(self.renderer_of(labels), shelf, State(), self.config.tasks)

        def render(source: int, part: int) -> FilePart:
            stream = self.streams[source]
            rows, examples = _ends(rendering.writers), _ends(rendering.held_out)
            rendering.dropped, rendering.bad = {n: DroppedRows() for n in SPLITS}, {n: BadRows() for n in SPLITS}
            chunks = (converted.examples for converted in stream.chunks(self.chunk, part))
            rendering.run(chunks, goals[stream.part], starts[source, part])
            made, held = _stretches(rows, rendering.writers), _stretches(examples, rendering.held_out)
            return FilePart(self.crew.rank, made, held, rendering.bad, rendering.dropped)

        try:
            parts = self._by_place(render)
            return parts, self._left(rendering)
        finally:
            shelf.close()

    def _left(self, rendering: Rendering) -> list[Left]:
        """What every process left; of the rows to be looked at again those that are drawn among all."""
        for name in SPLITS:
            draws = self.crew.collected([[one.draw for one in rendering.tallies[name].drawn]])
            rendering.tallies[name].keep(draw for drawn in draws for draw in drawn)

        def finish() -> list[Left]:
            files = tuple(rendering.files)
            tables = {name: writer.finish(files) for name, writer in rendering.writers.items()}
            held = {name: rows.finish() for name, rows in rendering.held_out.items()}
            examples = {name: rows.lengths for name, rows in held.items() if isinstance(rows, JsonRows)}
            whole = not any(rows.held for rows in held.values() if isinstance(rows, JsonRows))
            return [Left(files, cache.lengths_of(tables), examples, rendering.tallies, whole)]

        return everyones(self.crew, finish)

    def _put_together(
        self, parts: Mapping[Place, FilePart], left: Sequence[Left], labels: tuple[str, ...], key: str
    ) -> bool:
        """One table of each split out of those of all processes; the main process does it."""
        shelf = _on_disk(self.folder / "whole")
        rendering = Rendering(self.renderer_of(labels), shelf, self.state, self.config.tasks)
        opened = [_open(self.folder / str(rank), one) for rank, one in enumerate(left)]
        try:
            for part in parts.values():
                _append(rendering, part, *opened[part.taker])
            for one in left:
                for name in SPLITS:
                    rendering.tallies[name].extend(one.tallies[name])
            self.opened.refuse_changes()
            stored = self.finish(rendering, labels)
        finally:
            shelf.close()
        kept = cache.keep(stored, shelf.folder, key)
        if kept:
            digests.keep(self.opened.paths)
        return kept


def _hindrance(config: DataConfig, places: Sequence[Place], crew: Crew) -> str:
    """Why files cannot be dealt out; empty where they can."""
    sources = [*config.train_sources, *(s for s in (config.validation, config.test) if s is not None)]
    if len(places) < crew.size:
        return f"there are fewer files ({len(places)}) than processes ({crew.size})"
    if any(source.limit is not None for source in sources):
        return "`limit` counts rows from the first file on"
    return "`data.augment` makes new rows of all of them" if config.augment else ""


def _not_shared(crew: Crew) -> str:
    """Why processes cannot put their tables together; empty where they write to one folder."""
    with partial_folder() as mine:
        seen = crew.of_main(mine)
        crew.on_main(lambda: seen.mkdir(parents=True, exist_ok=True))
        all_see = all(crew.collected([seen.is_dir()]))
    return "" if all_see else f"they do not share the folder {home()} ($BURNISH_CACHE)"


def _check_together(key: str, crew: Crew) -> list[Finding] | None:
    """Whether rows that were kept are there and whole, each file of them checked by one process; None if so."""
    folder, damage = home() / key, None
    names = crew.of_main(_recorded(folder))
    if not names:
        return []
    try:
        cache.check(folder, names[crew.rank :: crew.size])
    except cache.DAMAGES as error:
        damage = str(error)
    damages = [said for said in crew.collected([damage]) if said]
    if damages:
        return [cache.damaged(folder, ValueError(damages[0]))]
    cache.hold(key, made_now=False)
    return None


def _recorded(folder: Path) -> list[str]:
    with suppress(*cache.DAMAGES):
        return sorted(cache.recorded(folder))
    return []


def _read_by_all(why: str) -> Finding:
    what = "every process reads all data files"
    return Finding("note", "data.read-by-all", what, where="data", why=why, fix="")


def _paths(opened: Opened, places: Iterable[Place]) -> list[Path]:
    parts = (opened.sources[s][1].parts[p] for s, p in places)
    return [part.path for part in parts if isinstance(part, DataFile)]


def _joined(parts: Sequence[Hashed]) -> Hashed:
    bad, dropped = BadRows(), DroppedRows()
    for part in parts:
        bad.extend(part.bad)
        dropped.extend(part.dropped)
    return Hashed(joined([part.keys for part in parts]), bad, dropped)


def _on_disk(folder: Path) -> Shelf:
    shelf = Shelf(folder, 0)
    shelf.grow(1)
    return shelf


def _ends(writers: Mapping[str, Any]) -> dict[str, int]:
    return {name: writer.rows for name, writer in writers.items()}


def _stretches(starts: Mapping[str, int], writers: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    return {name: (start, writers[name].rows) for name, start in starts.items()}


def _open(folder: Path, left: Left) -> tuple[dict[str, Any], dict[str, Any]]:
    """The tables and held-out examples that a process left."""
    examples = {
        split: JsonRows.open(folder, f"{split}.{cache.EXAMPLE}", dict(lengths), cache.EXAMPLES)
        for split, lengths in left.examples.items()
    }
    return cache.tables_of(folder, left.lengths, left.files), examples


def _append(rendering: Rendering, part: FilePart, tables: Mapping[str, Any], examples: Mapping[str, Any]) -> None:
    """Put what one process made of a file behind what is there."""
    for split in SPLITS:
        rendering.bad[split].extend(part.bad[split])
        rendering.dropped[split].extend(part.dropped[split])
        start, end = part.rows[split]
        table, numbers = tables[split]
        if start < end:
            own = table.between(start, end)
            own = replace(own, ids=_renamed(own.ids, rendering.files))
            rendering.writers[split].append(own, numbers[start:end].astype(np.int64))
        if split in examples:
            first, last = part.examples[split]
            rendering.held_out[split].append(examples[split][place] for place in range(first, last))


def _renamed(names: RowNames, places: dict[str, int]) -> RowNames:
    """Names whose files are counted as in the tables of all processes; new files are added."""
    numbers = np.zeros(len(names.files), np.int32)
    for code in np.unique(names.file).tolist():
        numbers[code] = places.setdefault(names.files[code], len(places))
    return RowNames(tuple(places), numbers[names.file], names.line)
