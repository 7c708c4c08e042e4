"""Which forward passes over held-out rows are this process's, and putting together what all processes found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")


class Deal:
    """One process: all passes are its own."""

    def dealt(self, batches: Sequence[list[int]]) -> list[tuple[list[int], bool]]:
        """The row numbers of the passes that this process computes, and whether a pass counts.

        Where weights lie in shares the processes compute every pass together; who has one less repeats one, and what
        comes of that counts nowhere.
        """
        return [(rows, True) for rows in batches]

    def added(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """An array whose entries each one process has filled in, where the others have zeros."""
        return array

    def merged(self, found: Mapping[int, T]) -> Mapping[int, T]:
        """What was found for each row, by all processes."""
        return found
