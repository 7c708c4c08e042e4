"""Which forward passes over held-out rows are this process's, and putting together what all processes found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
ByRow = Sequence[T] | Mapping[int, T]
"""Something for every row, by its number."""


class Deal:
    """One process: all passes are its own."""

    def dealt(self, batches: Iterable[list[int]]) -> Iterator[tuple[list[int], bool]]:
        """The row numbers of the passes that this process computes, and whether a pass counts.

        Where weights lie in shares the processes compute every pass together; who has one less repeats one, and what
        comes of that counts nowhere.
        """
        return ((rows, True) for rows in batches)

    def added(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """An array whose entries each one process has filled in, where the others have zeros."""
        return array

    def gathered(self, rows: Sequence[int], found: Sequence[T]) -> ByRow[T]:
        """What all processes found, by the number of the row.

        Args:
            rows: Those of this process, ascending; all of them in one process.
            found: What it found for each of them.
        """
        return found
