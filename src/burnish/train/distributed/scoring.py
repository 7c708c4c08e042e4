"""Held-out rows over the processes: each is scored by one of them, and all know the result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from burnish.evaluate.deal import Deal
from burnish.train.distributed.engine import Engine

T = TypeVar("T")


class Scoring(Deal):
    """The passes of one process.

    Args:
        engine: Says which process this is, and whether passes are computed together.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine, self.group = engine, engine.group

    def dealt(self, batches: Sequence[list[int]]) -> list[tuple[list[int], bool]]:
        own = [(rows, True) for rows in batches[self.group.rank :: self.group.size]]
        if not self.engine.sharded:
            return own
        most = -(-len(batches) // self.group.size)
        return own + [(list(batches[0]), False)] * (most - len(own))

    def added(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.group.added(array)

    def merged(self, found: Mapping[int, T]) -> Mapping[int, T]:
        return dict(self.group.collected(list(found.items())))
