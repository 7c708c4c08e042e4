"""Which replayed rows stand in which update: arithmetic over seed, ratio and the sizes of rows, and nothing else.

N rows of the task, S updates, P parts of the replayed data, J replayed rows of the whole training. With b_t rows (or
tokens) of the task in update t and r_t the ratio there, the replayed rows up to and with update t number

    R_t = sum_{s <= t} b_s r_s / (1 - r_s),

so that their share of all rows is r. What cannot be met in one update is carried into the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
_STREAM = 0x4E91A  # keeps this use of the run's seed apart from others
_SHORTEST = 2  # a row of one token has nothing to predict
_DIGITS = 9  # sums of fractions such as 1/9 end a hair beside the whole number that they are


@dataclass(frozen=True)
class Part:
    """One origin of replayed rows.

    Attributes:
        name: What it is called.
        rows: [n] their numbers in the table of replayed rows.
        weight: Its share beside the other parts' weights.
    """

    name: str
    rows: Ints
    weight: float = 1.0


@dataclass(frozen=True)
class Mix:
    """The replayed rows of every update.

    Attributes:
        begins: [S + 1] where each update's stretch of the following begins.
        parts: [J] number of the part.
        rows: [J] number in the table.
        lengths: [J] tokens that are taken of it, which is fewer than it has where an epoch's last row is cut.
        shares: [S] replayed units over the units of the task, the weight of an update's replay loss.
    """

    begins: Ints
    parts: Ints
    rows: Ints
    lengths: Ints
    shares: Floats

    def of(self, step: int) -> slice:
        """The stretch of one update."""
        return slice(int(self.begins[step]), int(self.begins[step + 1]))


def ratios(ends: tuple[float, float], steps: int) -> Floats:
    """[S] the ratio at every update: a line from the first value to the second."""
    return np.linspace(ends[0], ends[1], steps)


def targets(units: Floats, ratio: Floats) -> Floats:
    """[S] R_t, replayed units wanted up to and with each update.

    Args:
        units: [S] rows or tokens of the task in each update.
        ratio: [S] the ratio there.
    """
    wanted: Floats = np.cumsum(units * ratio / (1 - ratio)).round(_DIGITS)
    return wanted


def order(part: Part, number: int, seed: int, turn: int) -> Ints:
    """The order in which a part's rows are taken in one pass over them; each row comes once in it."""
    return np.random.default_rng([_STREAM, seed, number, turn]).permutation(part.rows)


class Rows:
    """Replayed rows in order, without end: the part that lags furthest behind its weight comes next.

    Args:
        parts: The parts, none of them empty.
        seed: Seed of the run.
    """

    def __init__(self, parts: Sequence[Part], seed: int) -> None:
        self.parts, self.seed = parts, seed
        self.weights = np.array([part.weight for part in parts])
        self.given = np.zeros(len(parts))
        self.taken = [0] * len(parts)
        self.passes: list[tuple[int, Ints]] = [(-1, part.rows) for part in parts]

    def peek(self) -> tuple[int, int]:
        """Part and number of the next row."""
        number = int(np.argmin(np.round(self.given / self.weights, _DIGITS)))
        part = self.parts[number]
        turn, place = divmod(self.taken[number], len(part.rows))
        if self.passes[number][0] != turn:
            self.passes[number] = (turn, order(part, number, self.seed, turn))
        return number, int(self.passes[number][1][place])

    def take(self, number: int, units: float) -> None:
        """The next row was used; it counts so many units for its part."""
        self.given[number] += units
        self.taken[number] += 1


def mix_rows(parts: Sequence[Part], lengths: Ints, wanted: Floats, units: Floats, seed: int) -> Mix:
    """A ratio of rows: up to update t the nearest whole number of rows to R_t, at every t.

    Args:
        parts: The origins of rows.
        lengths: Tokens of every row of their table.
        wanted: [S] R_t.
        units: [S] rows of the task in each update.
        seed: Seed of the run.
    """
    begins = np.concatenate([[0], np.floor(wanted + 0.5)]).astype(np.int64)
    source, found = Rows(parts, seed), []
    for _ in range(int(begins[-1])):
        number, row = source.peek()
        source.take(number, 1)
        found.append((number, row, int(lengths[row])))
    return _mix(begins, found, np.diff(begins) / units)


def mix_tokens(
    parts: Sequence[Part],
    lengths: Ints,
    wanted: Floats,
    units: Floats,
    seed: int,
    epoch_ends: Sequence[int],
    may_cut: Callable[[int, int], bool],
) -> Mix:
    """A ratio of tokens: never more than R_t up to update t, and exactly R_t, rounded, where an epoch ends.

    Args:
        parts: The origins of rows.
        lengths: Tokens of every row of their table.
        wanted: [S] R_t.
        units: [S] tokens of the task in each update.
        seed: Seed of the run.
        epoch_ends: Updates that end an epoch, or the training.
        may_cut: Whether a row can be cut to so many tokens: there must be something to learn in them. Where it cannot,
            what is missing is carried into the next epoch.
    """
    source, ends, done = Rows(parts, seed), frozenset(epoch_ends), 0
    found: list[tuple[int, int, int]] = []
    begins, amounts = [0], []
    for step, goal in enumerate(wanted):
        before, whole = done, int(np.floor(goal + 0.5)) if step in ends else int(np.floor(goal))
        while True:
            number, row = source.peek()
            length = int(lengths[row])
            if done + length > whole:
                left = whole - done
                if step not in ends or left < _SHORTEST or not may_cut(row, left):
                    break
                length = left
            source.take(number, length)
            found.append((number, row, length))
            done += length
        begins.append(len(found))
        amounts.append(done - before)
    return _mix(np.asarray(begins, dtype=np.int64), found, np.asarray(amounts) / units)


def _mix(begins: Ints, found: Sequence[tuple[int, int, int]], shares: Floats) -> Mix:
    columns = np.asarray(found, dtype=np.int64).reshape(-1, 3)
    return Mix(begins, columns[:, 0], columns[:, 1], columns[:, 2], shares)


def kept_rows(groups: Sequence[str], most: int, seed: int) -> Ints:
    """[min(n, most)] numbers of the rows that a buffer keeps, ascending.

    Rows of one group are as likely as each other. Groups get the same number of rows; what a small group cannot fill is
    dealt out among the others, the first in the alphabet first where it does not divide.

    Args:
        groups: [n] the group of each row; all alike for a plain choice.
        most: Rows that are kept.
        seed: Seed of the choice.
    """
    names = sorted(set(groups))
    members = {name: np.flatnonzero([own == name for own in groups]) for name in names}
    room = dict.fromkeys(names, 0)
    left = min(most, len(groups))
    while left:
        open_ones = [name for name in names if room[name] < len(members[name])]
        share = max(1, left // len(open_ones))
        for name in open_ones[: max(1, left)]:
            more = min(share, len(members[name]) - room[name], left)
            room[name], left = room[name] + more, left - more
    chosen = [
        np.random.default_rng([_STREAM, seed, number]).permutation(members[name])[: room[name]]
        for number, name in enumerate(names)
    ]
    return np.sort(np.concatenate(chosen)) if chosen else np.empty(0, dtype=np.int64)
