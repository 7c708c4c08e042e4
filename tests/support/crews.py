"""Threads that tell one another what processes of a run do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeVar

from burnish.core.errors import UserError

T = TypeVar("T")


class Threads:
    """One of several threads that meet.

    Args:
        rank: Its number.
        size: How many there are.
        barrier: Where they meet.
        table: What each has said.
    """

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, table: list[Any]) -> None:
        self.rank, self.size, self.barrier, self.table = rank, size, barrier, table

    def _all(self, value: Any) -> list[Any]:
        self.table[self.rank] = value
        self.barrier.wait(60)
        found = list(self.table)
        self.barrier.wait(60)
        return found

    def of_main(self, value: T) -> T:
        found: T = self._all(value)[0]
        return found

    def collected(self, values: list[T]) -> list[T]:
        return [one for part in self._all(values) for one in part]

    def on_main(self, action: Callable[[], T]) -> T | None:
        return self.together(action if self.rank == 0 else lambda: None)

    def together(self, action: Callable[[], T]) -> T:
        result, refused = None, None
        try:
            result = action()
        except UserError as error:
            refused = error
        for told in self._all(refused):
            if told is not None:
                raise UserError(told.what, where=told.where, fix=told.fix)
        return result  # type: ignore[return-value]


def crewed(size: int, work: Callable[[Threads], T]) -> list[T]:
    """What so many threads make of it; the first refusal is raised."""
    barrier, table = threading.Barrier(size), [None] * size
    found: list[Any] = [None] * size
    errors: list[Any] = [None] * size

    def run(rank: int) -> None:
        try:
            found[rank] = work(Threads(rank, size, barrier, table))
        except BaseException as error:
            errors[rank] = error
            if not isinstance(error, UserError):
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,), name=str(rank)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faults = [error for error in errors if error is not None]
    if faults:
        assert len(faults) == size or not isinstance(faults[0], UserError), "a refusal in one is one in all"
        raise faults[0]
    return found
