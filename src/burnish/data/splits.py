"""Hold evaluation rows out: seeded, by row, by group, or with equal shares of a column's values."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.data.config import SplitConfig
from burnish.data.names import RowNames

_SPLIT_STREAM = 0x5911
_CHOICE_STREAM = 0xC401

Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Values:
    """What the rows hold in the column that they are grouped or stratified by.

    Attributes:
        codes: [N] place of each row's value in ``texts``; -1 where it has none.
        texts: The distinct values.
        names: [N] names of the rows; one without a value is a group of its own.
    """

    codes: NDArray[np.int32]
    texts: Sequence[str]
    names: RowNames

    def at(self, rows: Numbers) -> Values:
        """The values of some rows."""
        return Values(self.codes[rows], self.texts, self.names.at(rows))

    def distinct(self) -> set[str]:
        """The values that there are."""
        return {self.texts[code] for code in np.unique(self.codes).tolist() if code >= 0}

    def outside(self, known: Collection[str]) -> Numbers:
        """The rows, each with a value, whose value is none of ``known``; ascending."""
        listed = frozenset(known)
        strange = np.fromiter((text not in listed for text in self.texts), np.bool_, len(self.texts))
        return np.flatnonzero(strange[self.codes])

    def text(self, row: int) -> str:
        """A row's value."""
        code = int(self.codes[row])
        return self.texts[code] if code >= 0 else f"\0{self.names[row]}"


def split_rows(
    total: int,
    config: SplitConfig,
    *,
    seed: int,
    values: Values | None = None,
    validation: bool = True,
    test: bool = True,
) -> dict[str, Numbers]:
    """Divide rows into ``train``, ``validation`` and ``test``: row numbers, ascending in each part.

    The test rows are drawn first, then the validation rows, so that a change of `validation` leaves the test rows as
    they are.

    Args:
        total: Rows of the training source.
        config: Amounts, and the column to group or stratify by.
        seed: The run's seed, used if the config has none.
        values: That column, where the config names one.
        validation: False if the validation rows come from a source of their own.
        test: False if the test rows come from a source of their own.

    Raises:
        UserError: Nothing would be left for training.
    """
    wanted = {
        "test": _rows_of(config.test, total) if test else 0,
        "validation": _rows_of(config.validation, total) if validation else 0,
    }
    if total and sum(wanted.values()) >= total:
        raise UserError(
            f"the split asks for {wanted['test']} test and {wanted['validation']} validation rows of {total}, "
            "which leaves none for training",
            where="data.split",
            fix="ask for fewer, or give `data.validation` and `data.test` sources",
        )
    generator = np.random.default_rng([_SPLIT_STREAM, config.seed if config.seed is not None else seed])
    left = generator.permutation(total)
    parts: dict[str, Numbers] = {}
    taken = np.zeros(total, dtype=np.bool_)
    for name, count in wanted.items():
        chosen = _draw(left, count, values, grouped=config.group is not None)
        parts[name] = np.sort(chosen)
        taken[chosen] = True
        left = left[~taken[left]]
    if total and not len(left):
        fix = "ask for fewer rows, or group by a column with more values"
        raise UserError("the groups are so large that no row is left for training", where="data.split", fix=fix)
    return {"train": np.sort(left), **parts}


def choose_rows(total: int, count: int, *, seed: int) -> Numbers:
    """A seeded choice of ``count`` row numbers, ascending; a smaller choice is part of a larger one."""
    return np.sort(np.random.default_rng([_CHOICE_STREAM, seed]).permutation(total)[:count])


def check_column(columns: Sequence[str], config: SplitConfig) -> None:
    """Refuse a column to group or stratify by that is not there.

    Raises:
        UserError: With the nearest column.
    """
    column, key = (config.group, "group") if config.group else (config.stratify, "stratify")
    if column is not None and column not in columns:
        raise UserError(f"there is no column `{column}`", where=f"data.split.{key}", fix=suggestion(column, columns))


def _rows_of(amount: int | float, total: int) -> int:
    """Rows that an amount means: itself, or a share of the total, at least one row unless it is 0."""
    if isinstance(amount, int):
        return amount
    return max(1, round(amount * total)) if amount and total else 0


def _draw(order: Numbers, count: int, values: Values | None, *, grouped: bool) -> Numbers:
    if values is None or not count:
        return order[:count]
    members = _Members.of(order, values)
    return _whole_groups(members, count) if grouped else _equal_shares(members, count, values)


@dataclass(frozen=True)
class _Members:
    """Rows by value, in drawn order; the values in the order in which they were first drawn.

    Attributes:
        rows: [N] row numbers, those of one value together.
        starts: [G] where each value's rows begin.
        sizes: [G] how many they are.
    """

    rows: Numbers
    starts: Numbers
    sizes: Numbers

    @classmethod
    def of(cls, order: Numbers, values: Values) -> _Members:
        codes = values.codes[order].astype(np.int64)
        without = np.flatnonzero(codes < 0)
        codes[without] = len(values.texts) + without
        by_value = np.argsort(codes, kind="stable")
        ordered = codes[by_value]
        starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(ordered)), np.bool_), ordered[1:] != ordered[:-1]]))
        sizes = np.diff(starts, append=len(ordered))
        first_drawn = np.argsort(by_value[starts], kind="stable")
        return cls(order[by_value], starts[first_drawn], sizes[first_drawn])

    def take(self, group: int, count: int) -> Numbers:
        """The first rows of a value."""
        start = int(self.starts[group])
        return self.rows[start : start + min(count, int(self.sizes[group]))]


def _whole_groups(members: _Members, count: int) -> Numbers:
    """Groups in their drawn order until ``count`` rows are reached, passing over those that would overshoot by more
    than they bring nearer."""
    chosen: list[Numbers] = []
    missing = count
    for group, size in enumerate(members.sizes.tolist()):
        if missing <= 0:
            break
        if size - missing <= missing:
            chosen.append(members.take(group, size))
            missing -= size
    smallest = int(np.argmin(members.sizes))
    return np.concatenate(chosen or [members.take(smallest, int(members.sizes[smallest]))])


def _equal_shares(members: _Members, count: int, values: Values) -> Numbers:
    """Rows of every value in proportion; what rounding leaves over goes to the largest remainders."""
    exact = members.sizes * count / len(members.rows)
    quota = exact.astype(np.int64)
    texts = [values.text(int(row)) for row in members.rows[members.starts]]
    remainders = (quota - exact).tolist()
    by_remainder = sorted(range(len(texts)), key=lambda g: (remainders[g], texts[g]))
    quota[by_remainder[: count - int(quota.sum())]] += 1
    return np.concatenate([members.take(group, int(n)) for group, n in enumerate(quota)])
