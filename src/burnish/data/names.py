"""Names of rows, `file:line`, in eight bytes each: a million texts would take a hundred megabytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray


class RowNames(Sequence[str]):
    """A sequence of `file:line` that is written out when it is asked for.

    Args:
        files: The files' names.
        file: [N] place of each row's file in ``files``.
        line: [N] its line; 0 for a name without one.
    """

    def __init__(self, files: Sequence[str], file: NDArray[np.int32], line: NDArray[np.uint32]) -> None:
        self.files, self.file, self.line = tuple(files), file, line

    @classmethod
    def of(cls, names: Iterable[str], places: dict[str, int] | None = None) -> RowNames:
        """The same for names that are written out.

        Args:
            names: The names.
            places: Files that were met before, so that all chunks of a table count them alike; new ones are added.
        """
        places = {} if places is None else places
        file: list[int] = []
        lines: list[int] = []
        for name in names:
            head, line = split_name(name)
            file.append(places.setdefault(head, len(places)))
            lines.append(line)
        return cls(tuple(places), np.asarray(file, dtype=np.int32), np.asarray(lines, dtype=np.uint32))

    def __len__(self) -> int:
        return len(self.file)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> RowNames: ...
    def __getitem__(self, index: int | slice) -> str | RowNames:
        if isinstance(index, slice):
            return RowNames(self.files, self.file[index], self.line[index])
        name, line = self.files[int(self.file[index])], int(self.line[index])
        return f"{name}:{line}" if line else name

    def at(self, rows: NDArray[np.int64]) -> RowNames:
        """The names of some rows."""
        return RowNames(self.files, self.file[rows], self.line[rows])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __hash__(self) -> int:
        return hash(tuple(self))


def split_name(name: str) -> tuple[str, int]:
    """File and line of a name; line 0 where it has none."""
    head, _, tail = name.rpartition(":")
    if head and tail.isascii() and tail.isdigit() and not tail.startswith("0") and len(tail) < 10:
        return head, int(tail)
    return name, 0
