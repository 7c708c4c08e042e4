"""Dealing work out to processes, evenly by size and by number."""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray


def takers(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """[R] the process that each piece of work goes to; a function of the sizes alone.

    The largest goes first, each to the process with the least so far (Graham, 1969), among those that still have room:
    the numbers of pieces differ by one at most.

    Args:
        sizes: [R] of each piece.
        count: P, how many processes there are.
    """
    room = -(-len(sizes) // count)
    spare = len(sizes) - (room - 1) * count  # so many processes may take the last piece of an uneven number
    found, waiting = np.zeros(len(sizes), dtype=np.int64), [(0, 0, rank) for rank in range(count)]
    for place in np.argsort(-sizes, kind="stable").tolist():
        while waiting[0][1] == room - 1 and not spare:  # its room is taken, and stays so
            heapq.heappop(waiting)
        load, held, rank = heapq.heappop(waiting)
        found[place], spare = rank, spare - (held + 1 == room)
        if held + 1 < room:
            heapq.heappush(waiting, (load + int(sizes[place]), held + 1, rank))
    return found
