"""A group of processes of which only one is there."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from burnish.core.types import Loss, Term
from burnish.train.distributed.group import Group


def _term(name: str, source: str) -> Term:
    return Term(name, 1.0, lambda batch: torch.ones(()), lambda batch, context: Loss(torch.zeros(())), source=source)


class Three(Group):
    """One of three processes; what the others say is given.

    Args:
        rank: Which one.
        rows: How many micro-batches each process has, by source: that of the task, then `general`.
    """

    def __init__(self, rank: int, rows: Sequence[Sequence[float]]) -> None:
        self.rank, self.size = rank, 3
        self.rows = rows
        self.terms = [_term("sft", ""), _term("replay", "general")]

    def table(self, values: Sequence[float]) -> list[list[float]]:
        """What all have; this one's has to be what it says."""
        general, own = self.rows[self.rank]
        assert list(values) == [own, general]
        return [[row[1], row[0]] for row in self.rows]
