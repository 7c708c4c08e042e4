"""Slices of a split with more errors than the rest, tested exactly and named in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import hypergeom

from burnish.evaluate.intervals import holm, wilson

SMALLEST = 10
"""Rows of the smallest slice that is tested."""
LEVEL = 0.05


@dataclass(frozen=True)
class Slice:
    """Rows that have one trait in common.

    Attributes:
        trait: Which trait, such as ``length``.
        value: Its value in words.
        rows: How many rows have it.
        errors: How many of them are wrong.
        low: Lower end of the 95 % interval (Wilson) of their share.
        high: Its upper end.
        rest: Share of errors of all other rows.
        p_value: Probability of so many errors or more if the trait did not matter (Fisher's exact test, one-sided);
            NaN where it was not tested.
        adjusted: The same, corrected for the number of slices tested (Holm, 1979).
        members: [rows] row numbers.
    """

    trait: str
    value: str
    rows: int
    errors: int
    low: float
    high: float
    rest: float
    p_value: float
    adjusted: float
    members: NDArray[np.int64]

    @property
    def rate(self) -> float:
        """Share of errors."""
        return self.errors / self.rows

    @property
    def significant(self) -> bool:
        """Whether it has more errors than the rest, also after the correction."""
        return self.adjusted < LEVEL


def slices(traits: Mapping[str, Sequence[str]], wrong: Sequence[bool], untested: Sequence[str] = ()) -> list[Slice]:
    """Every slice of every trait, those with the smallest p-value first.

    Args:
        traits: By name, the value of each of the N rows.
        wrong: [N] which rows are errors.
        untested: Traits that say by themselves whether a row is likely wrong, such as its confidence: counted, not
            tested.
    """
    errors = np.asarray(wrong, dtype=bool)
    found = [one for name, values in traits.items() for one in _of_trait(name, values, errors, name not in untested)]
    tested = [one for one in found if one.p_value == one.p_value]
    adjusted = dict(zip(map(id, tested), holm([one.p_value for one in tested]), strict=True))
    found = [_adjusted(one, adjusted.get(id(one), float("nan"))) for one in found]
    return sorted(found, key=lambda one: (one.p_value != one.p_value, one.p_value, one.trait, one.value))


def _of_trait(name: str, values: Sequence[str], errors: NDArray[np.bool_], tested: bool) -> list[Slice]:
    column = np.asarray(values, dtype=object)
    total, wrong = len(errors), int(errors.sum())
    found = []
    for value in dict.fromkeys(values):
        members = np.flatnonzero(column == value)
        count, hits = len(members), int(errors[members].sum())
        low, high = wilson(hits, count)
        rest = (wrong - hits) / (total - count) if total > count else float("nan")
        p = float("nan")
        if tested and SMALLEST <= count < total:
            p = float(hypergeom.sf(hits - 1, total, wrong, count))
        found.append(Slice(name, value, count, hits, low, high, rest, p, p, members))
    return found


def _adjusted(one: Slice, value: float) -> Slice:
    return Slice(**{**one.__dict__, "adjusted": value})
