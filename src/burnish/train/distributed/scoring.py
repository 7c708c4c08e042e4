"""Held-out rows over the processes: each is scored by one of them, and all know the result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from burnish.evaluate.deal import ByRow, Deal
from burnish.train.distributed.engine import Engine

T = TypeVar("T")


class Scoring(Deal):
    """The passes of one process.

    Args:
        engine: Says which process this is, and whether passes are computed together.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.group = engine, engine.group

    def dealt(self, batches: Iterable[list[int]]) -> Iterator[tuple[list[int], bool]]:
        left = iter(batches)
        while some := list(islice(left, self.group.size)):
            if self.group.rank < len(some):
                yield some[self.group.rank], True
            elif self.engine.sharded:
                yield some[0], False

    def added(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.group.added(array)

    def gathered(self, rows: Sequence[int], found: Sequence[T]) -> ByRow[T]:
        return dict(self.group.collected(list(zip(rows, found, strict=True))))
