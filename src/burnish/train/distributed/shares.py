"""Whose rows are whose: every row of an update goes to one process, none to two, and the work is even.

Shapes: R rows of an update, P processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from burnish.core.dealing import takers
from burnish.core.types import Batch, Term
from burnish.train.distributed.group import Group


@dataclass(frozen=True)
class Share:
    """The part of one process in each update.

    Attributes:
        rank: Its number.
        size: How many processes there are.
    """

    rank: int = 0
    size: int = 1

    def of(self, rows: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """The rows of an update that are this process's, in their order.

        A function of rows and lengths alone, so every process knows the shares of all.

        Args:
            rows: [R] row numbers.
            lengths: Tokens of each row of the table.
        """
        return rows if self.size == 1 else rows[takers(lengths[rows], self.size) == self.rank]


class Steps(Protocol):
    """What is asked of the micro-batches of a run."""

    def __getitem__(self, step: int) -> list[Batch]:
        """Those of this process in one update."""

    def samples(self, step: int) -> Mapping[str, Batch]:
        """One small micro-batch of each source in an update."""


def in_step(
    group: Group, own: Sequence[Batch], further: Sequence[Batch], samples: Mapping[str, Batch], terms: Sequence[Term]
) -> list[Batch]:
    """The micro-batches of this process, as many of each source as any process has.

    Where weights lie in shares, a forward pass is something that all processes do together. Who has fewer micro-batches
    computes a sample in the place of a missing one, marked ``idle``, whose loss counts nothing.

    Args:
        group: The processes.
        own: This process's micro-batches.
        further: Those of regularizers; every process knows all of them.
        samples: A micro-batch by source, for those that are missing.
        terms: The objective, which names the sources.
    """
    sources = sorted({"", *(term.source for term in terms if not term.once)})
    mine = [*own, *further[group.rank :: group.size]]
    parts = {source: [b for b in mine if b.get("source", "") == source] for source in sources}
    most = [max(column) for column in zip(*group.table([len(parts[s]) for s in sources]), strict=True)]
    fill = {**samples, **{b.get("source", ""): b for b in reversed(further)}}
    dealt: list[Batch] = []
    for source, count in zip(sources, most, strict=True):
        missing = int(count) - len(parts[source])
        dealt += [*parts[source], *(idle(fill[source]) for _ in range(missing))]
    return dealt


def idle(batch: Any) -> Batch:
    """The micro-batch as one that is computed and counts nothing."""
    return {**batch, "idle": True}  # type: ignore[return-value]  # the same keys and one more


def counted(batches: Sequence[Batch]) -> list[Batch]:
    """The micro-batches that count."""
    return [batch for batch in batches if not batch.get("idle")]
