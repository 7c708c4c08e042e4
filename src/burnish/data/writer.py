"""Token tables that grow chunk by chunk: in memory while they are small, in files as soon as they are not."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from burnish.data.names import RowNames
from burnish.data.table import ARRAYS, TokenTable

COLUMNS: dict[str, np.dtype[Any]] = {
    **{name: kind.type for name, kind in ARRAYS.items()},
    "file": np.dtype(np.int32),
    "line": np.dtype(np.uint32),
    "number": np.dtype(np.uint32),
}
"""What is kept of a split: the table's arrays, and of every row its file, its line, and its number among the examples
of its source."""


class Writer(Protocol):
    """Something that grows in memory and can go on in files."""

    def move(self) -> None: ...


@dataclass
class Shelf:
    """Where the tables of one preparation lie: in memory up to ``limit`` bytes, then all of them in ``folder``.

    Attributes:
        folder: Made when the limit is passed.
        limit: Bytes of all tables together that stay in memory.
        size: Bytes so far.
        on_disk: Whether the limit was passed.
    """

    folder: Path
    limit: int
    size: int = 0
    on_disk: bool = False
    writers: list[Writer] = field(default_factory=list)
    files: ExitStack = field(default_factory=ExitStack)

    def writer(self, split: str) -> TableWriter:
        """The table of one more split."""
        made = TableWriter(self, split)
        self.add(made)
        return made

    def add(self, writer: Writer) -> None:
        """Take something in that grows."""
        self.writers.append(writer)
        if self.on_disk:
            writer.move()

    def grow(self, size: int) -> None:
        """Take note of more bytes; move everything to the disk when there are too many."""
        self.size += size
        if self.size > self.limit and not self.on_disk:
            self.on_disk = True
            self.folder.mkdir(parents=True, exist_ok=True)
            for writer in self.writers:
                writer.move()

    def close(self) -> None:
        """Close the files; what was written is on the disk."""
        self.files.close()


class Column:
    """One flat array that grows.

    Args:
        name: Its file.
        dtype: Type of its numbers.
        shelf: Decides where it grows.
    """

    def __init__(self, name: str, dtype: np.dtype[Any], shelf: Shelf) -> None:
        self.name, self.dtype, self.shelf = name, dtype, shelf
        self.length = 0
        self.held: list[NDArray[Any]] = []
        self.file: BinaryIO | None = None

    def append(self, array: NDArray[Any]) -> None:
        """Put numbers behind those that are there."""
        self.length += len(array)
        if self.file:
            self.file.write(np.ascontiguousarray(array, self.dtype).data)
        elif len(array):
            self.held.append(np.asarray(array, self.dtype))

    def move(self) -> None:
        """Go on in a file."""
        self.file = self.shelf.files.enter_context((self.shelf.folder / self.name).open("wb"))
        for array in self.held:
            self.file.write(np.ascontiguousarray(array).data)
        self.held = []

    def finish(self) -> NDArray[Any]:
        """The array, in memory or mapped from its file."""
        if self.file:
            self.file.flush()
            os.fsync(self.file.fileno())
            return mapped(self.shelf.folder / self.name, self.dtype, self.length)
        return np.concatenate(self.held) if self.held else np.empty(0, self.dtype)


class TableWriter:
    """The table of one split.

    Attributes:
        rows: Rows so far.
        columns: Its arrays, by name.
    """

    def __init__(self, shelf: Shelf, split: str) -> None:
        self.shelf, self.rows = shelf, 0
        self.columns = {name: Column(f"{split}.{name}", dtype, shelf) for name, dtype in COLUMNS.items()}

    def append(self, chunk: TokenTable, numbers: NDArray[np.int64]) -> None:
        """Put the rows of a small table behind those that are there.

        Args:
            chunk: The rows; its names must count files as all chunks do.
            numbers: Their numbers among the examples of their source.
        """
        added: dict[str, NDArray[Any]] = {"file": chunk.ids.file, "line": chunk.ids.line, "number": numbers}
        lengths = {name: self.columns[name].length for name in ARRAYS}  # before anything is added
        for name, kind in ARRAYS.items():
            array = getattr(chunk, name)
            moved = array + lengths[kind.behind] if kind.behind else array
            added[name] = moved[1:] if kind.borders and lengths[name] else moved
        for name, array in added.items():
            self.columns[name].append(array)
        self.rows += len(chunk)
        self.shelf.grow(sum(self.columns[name].dtype.itemsize * len(array) for name, array in added.items()))

    def move(self) -> None:
        """Go on in files."""
        for column in self.columns.values():
            column.move()

    def finish(self, files: tuple[str, ...]) -> tuple[TokenTable, NDArray[np.uint32]]:
        """The whole table, and the numbers of its rows.

        Args:
            files: The names of all files, as the chunks' names count them.
        """
        if not self.rows:
            self.append(TokenTable.build((), ()), np.empty(0, np.int64))
        return assembled({name: column.finish() for name, column in self.columns.items()}, files)


def assembled(arrays: dict[str, NDArray[Any]], files: tuple[str, ...]) -> tuple[TokenTable, NDArray[np.uint32]]:
    """A table from its arrays, and the numbers of its rows."""
    names = RowNames(files, arrays["file"], arrays["line"])
    columns: dict[str, Any] = {name: arrays[name] for name in ARRAYS}
    return TokenTable(names, **columns), arrays["number"]


def mapped(path: Path, dtype: np.dtype[Any], length: int) -> NDArray[Any]:
    """A file's numbers, mapped into memory; an empty file cannot be mapped."""
    if not length:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", shape=(length,)))
