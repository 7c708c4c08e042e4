"""Hold evaluation rows out: seeded, by row, by group, or with equal shares of a column's values."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.data.config import SplitConfig
from burnish.data.example import Example

_SPLIT_STREAM = 0x5911
_CHOICE_STREAM = 0xC401


def split_examples(
    examples: Sequence[Example], config: SplitConfig, *, seed: int, validation: bool = True, test: bool = True
) -> dict[str, list[Example]]:
    """Divide examples into ``train``, ``validation`` and ``test``; each part keeps the order of the source.

    The test rows are drawn first, then the validation rows, so that a change of `validation` leaves the test rows as
    they are.

    Args:
        examples: The rows of the training source.
        config: Amounts, and the column to group or stratify by.
        seed: The run's seed, used if the config has none.
        validation: False if the validation rows come from a source of their own.
        test: False if the test rows come from a source of their own.

    Raises:
        UserError: A column is not there, or nothing would be left for training.
    """
    column = config.group or config.stratify
    if column is not None:
        _check_column(examples, column, "group" if config.group else "stratify")
    total = len(examples)
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
    order = generator.permutation(total)
    values = [_value(e, column) for e in examples] if column is not None else None
    taken: dict[str, set[int]] = {}
    left = order
    for name, count in wanted.items():
        chosen = _draw(left, count, values, grouped=config.group is not None)
        taken[name] = set(chosen)
        left = np.asarray([i for i in left if int(i) not in taken[name]], dtype=np.int64)
    if total and not len(left):
        fix = "ask for fewer rows, or group by a column with more values"
        raise UserError("the groups are so large that no row is left for training", where="data.split", fix=fix)
    names = {i: name for name, rows in taken.items() for i in rows}
    parts: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for index, example in enumerate(examples):
        parts[names.get(index, "train")].append(example)
    return parts


def choose_rows(examples: Sequence[Example], count: int, *, seed: int) -> list[Example]:
    """A seeded choice of ``count`` examples in their order; a smaller choice is part of a larger one."""
    order = np.random.default_rng([_CHOICE_STREAM, seed]).permutation(len(examples))
    return [examples[i] for i in sorted(int(i) for i in order[:count])]


def _rows_of(amount: int | float, total: int) -> int:
    """Rows that an amount means: itself, or a share of the total, at least one row unless it is 0."""
    if isinstance(amount, int):
        return amount
    return max(1, round(amount * total)) if amount and total else 0


def _draw(order: NDArray[np.int64], count: int, values: Sequence[str] | None, *, grouped: bool) -> list[int]:
    if not count:
        return []
    if values is None:
        return [int(i) for i in order[:count]]
    members: dict[str, list[int]] = {}
    for i in order:
        members.setdefault(values[int(i)], []).append(int(i))
    return _whole_groups(members, count) if grouped else _equal_shares(members, count, len(order))


def _whole_groups(members: dict[str, list[int]], count: int) -> list[int]:
    """Groups in their drawn order until ``count`` rows are reached, passing over those that would overshoot by more
    than they bring nearer."""
    chosen: list[int] = []
    for rows in members.values():
        missing = count - len(chosen)
        if missing <= 0:
            break
        if len(rows) - missing <= missing:
            chosen += rows
    return chosen or min(members.values(), key=len)


def _equal_shares(members: dict[str, list[int]], count: int, total: int) -> list[int]:
    """Rows of every value in proportion; what rounding leaves over goes to the largest remainders."""
    exact = {value: len(rows) * count / total for value, rows in members.items()}
    quota = {value: int(share) for value, share in exact.items()}
    by_remainder = sorted(exact, key=lambda v: (quota[v] - exact[v], v))
    for value in by_remainder[: count - sum(quota.values())]:
        quota[value] += 1
    return [i for value, rows in members.items() for i in rows[: quota[value]]]


def _value(example: Example, column: str) -> str:
    value = example.fields.get(column)
    return f"\0{example.id}" if value is None else str(value)  # a row without a group is a group of its own


def _check_column(examples: Sequence[Example], column: str, key: str) -> None:
    columns = list(dict.fromkeys(name for e in examples for name in e.fields))
    if examples and column not in columns:
        raise UserError(f"there is no column `{column}`", where=f"data.split.{key}", fix=suggestion(column, columns))
