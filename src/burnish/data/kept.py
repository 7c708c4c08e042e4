"""Values of rows that are read back one at a time: held while they are few, else as JSON in a file that is mapped."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.core.paths import cache_folder
from burnish.data.writer import Column, Shelf, mapped

T = TypeVar("T")

IN_MEMORY = 16 << 20
"""Bytes of tables, or of values of rows, that stay in memory. Larger ones are mapped from files."""
PARTS: dict[str, np.dtype[Any]] = {
    "text": np.dtype(np.uint8),
    "start": np.dtype(np.int64),
    "end": np.dtype(np.int64),
}
"""What lies on the disk: all texts, one behind the other, and where that of each value begins and ends."""
_SOME = 256
"""Values that are taken at a time."""
_OVERHEAD = 512
"""Bytes that an object of a few fields takes beside its texts."""


@dataclass(frozen=True)
class Codec(Generic[T]):
    """How a value becomes JSON and comes back.

    Attributes:
        to_json: From a value to what JSON can hold.
        of_json: Back again.
        exact: Whether a value that would come back as another one is held instead of written.
    """

    to_json: Callable[[T], Any]
    of_json: Callable[[Any], T]
    exact: bool = False

    def text(self, value: T) -> bytes | None:
        """A value as JSON; None where it cannot be that. Half characters are escaped, so that all of it is ASCII."""
        try:
            return json.dumps(self.to_json(value)).encode("ascii")
        except (TypeError, ValueError):
            return None

    def value(self, text: bytes) -> T:
        """The value of a text."""
        return self.of_json(json.loads(text))


PLAIN: Codec[Any] = Codec(lambda value: value, lambda value: value)
"""Values that are JSON as they are: mappings with texts as keys, lists, texts, numbers."""


class JsonRows(Sequence[T]):
    """Values that are read from their file when they are asked for.

    Args:
        columns: The arrays of ``PARTS``.
        codec: How a text becomes a value.
        held: Those that JSON cannot hold, by their number.
    """

    def __init__(self, columns: dict[str, NDArray[Any]], codec: Codec[T], held: dict[int, T] | None = None) -> None:
        self.columns, self.codec, self.held = columns, codec, held or {}

    @classmethod
    def open(cls, folder: Path, name: str, lengths: dict[str, int], codec: Codec[T]) -> JsonRows[T]:
        """Those that a ``JsonWriter`` has left in a folder."""
        return cls({part: mapped(folder / f"{name}.{part}", t, lengths[part]) for part, t in PARTS.items()}, codec)

    @property
    def lengths(self) -> dict[str, int]:
        """Lengths of the arrays, to open them again."""
        return {part: len(array) for part, array in self.columns.items()}

    def __len__(self) -> int:
        return len(self.columns["start"])

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            return [self[place] for place in range(len(self))[index]]
        place = range(len(self))[index]
        if place in self.held:
            return self.held[place]
        start, end = int(self.columns["start"][place]), int(self.columns["end"][place])
        return self.codec.value(self.columns["text"][start:end].tobytes())


class JsonWriter(Generic[T]):
    """Values that come one after the other.

    Args:
        shelf: Decides whether they are held or written.
        name: Beginning of the names of their files.
        codec: How a value becomes JSON.
    """

    def __init__(self, shelf: Shelf, name: str, codec: Codec[T] = PLAIN) -> None:
        self.shelf, self.codec = shelf, codec
        self.columns = {part: Column(f"{name}.{part}", dtype, shelf) for part, dtype in PARTS.items()}
        self.values: list[T] = []
        self.held: dict[int, T] = {}
        self._last: tuple[T, int, int] | None = None
        shelf.add(self)

    @property
    def rows(self) -> int:
        """Values so far."""
        return len(self.values) + self.columns["start"].length

    def append(self, values: Iterable[T]) -> None:
        """Put values behind those that are there; one that comes again at once is written once."""
        source = iter(values)
        while some := list(islice(source, _SOME)):
            if self.shelf.on_disk:
                self._write(some)
                continue
            self.values += some
            distinct = {id(value): value for value in some}.values()
            self.shelf.grow(sum(_OVERHEAD + len(self.codec.text(value) or b"") for value in distinct))

    def move(self) -> None:
        """Go on in files."""
        for column in self.columns.values():
            column.move()
        values, self.values = self.values, []
        self._write(values)

    def finish(self, rows: Sequence[int] | None = None) -> Sequence[T]:
        """All values.

        Args:
            rows: Where each of them belongs, in the order in which they came; without it they stay in this order.
        """
        order = None if rows is None else np.argsort(np.asarray(rows, dtype=np.int64), kind="stable")
        if not self.shelf.on_disk:
            return self.values if order is None else [self.values[i] for i in order.tolist()]
        columns = {part: column.finish() for part, column in self.columns.items()}
        if order is None:
            return JsonRows(columns, self.codec, self.held)
        moved = {**columns, "start": columns["start"][order], "end": columns["end"][order]}
        held = {place: self.held[i] for place, i in enumerate(order.tolist()) if i in self.held} if self.held else {}
        return JsonRows(moved, self.codec, held)

    def _write(self, values: Sequence[T]) -> None:
        texts, starts, ends = [], [], []
        begin, number = self.columns["text"].length, self.columns["start"].length
        for value in values:
            if self._last is None or self._last[0] is not value:
                text = self._text(value)
                if text is not None:
                    texts.append(text)
                self._last = (value, begin, begin + len(text) if text is not None else -1)
                begin = max(begin, self._last[2])
            _, start, end = self._last
            if end < start:
                self.held[number], end = value, start
            starts.append(start)
            ends.append(end)
            number += 1
        self.columns["text"].append(np.frombuffer(b"".join(texts), np.uint8))
        self.columns["start"].append(np.asarray(starts, np.int64))
        self.columns["end"].append(np.asarray(ends, np.int64))

    def _text(self, value: T) -> bytes | None:
        text = self.codec.text(value)
        if text is not None and self.codec.exact and self.codec.value(text) != value:
            return None
        return text


def home() -> Path:
    """The folder of all prepared data sets."""
    return cache_folder() / "rows"


@contextmanager
def partial_folder() -> Iterator[Path]:
    """A folder for what outgrows memory; removed afterwards unless it was renamed: what is mapped stays."""
    folder = home() / f".{secrets.token_hex(8)}"
    try:
        yield folder
    except OSError as error:
        raise UserError(
            f"the token table cannot be written: {error.strerror or error}",
            where=str(folder),
            fix="free space there, or set $BURNISH_CACHE to a folder with room",
        ) from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def shelved() -> Iterator[Shelf]:
    """A shelf for values of rows; what was finished on it can be read when its folder is gone.

    Raises:
        UserError: The disk is full, or the folder cannot be written.
    """
    with partial_folder() as folder:
        shelf = Shelf(folder, IN_MEMORY)
        try:
            yield shelf
        finally:
            shelf.close()
