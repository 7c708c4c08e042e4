"""Exact duplicates inside a set, contradictions between equal prompts, and leaks between sets: by 128-bit hashes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

SHOWN = 20
_STRETCH = 1 << 16
Hashes = NDArray[np.uint64]
"""[N, 2] 128 bits of each row."""
Numbers = NDArray[np.int64]


@dataclass(frozen=True)
class Duplicates:
    """What equals what inside a set.

    Attributes:
        unique: Numbers of the rows without later copies of an earlier one.
        n_copies: How many rows equal an earlier one.
        copies: The first of them: a copy's name, and that of the row that it equals.
        repeated_prompts: Rows whose prompt an earlier one has, copies included.
        n_conflicts: Prompts with several targets.
        conflict_rows: Rows that have one of these prompts.
        conflicts: Names of rows that share a prompt but not the target, by prompt; the first prompts, and of each the
            first rows.
    """

    unique: Numbers
    n_copies: int
    copies: list[tuple[str, str]]
    repeated_prompts: int
    n_conflicts: int
    conflict_rows: int
    conflicts: list[list[str]]


@dataclass(frozen=True)
class Leaks:
    """Rows whose prompt is also in a held-out set.

    Attributes:
        rows: Their places.
        first: The first of them: a row's name, and that of the held-out row.
    """

    rows: Numbers
    first: list[tuple[str, str]]


def hashes_of(texts: Iterable[str]) -> Hashes:
    """[N, 2] the BLAKE2b hashes of texts."""
    digests = [blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype=np.uint64).reshape(-1, 2)


def find_duplicates(rows: Hashes, prompts: Hashes, names: Sequence[str]) -> Duplicates:
    """Compare prompts and targets character by character, through their hashes.

    Args:
        rows: Hashes of `Example.key`.
        prompts: Hashes of `Example.prompt_key`.
        names: Names of the rows.
    """
    first = first_equal(rows)
    is_copy = first != np.arange(len(rows), dtype=first.dtype)
    copies, unique = np.flatnonzero(is_copy), np.flatnonzero(~is_copy)
    shown = [(names[int(i)], names[int(first[i])]) for i in copies[:SHOWN]]
    del first, is_copy
    asked = first_equal(prompts[unique] if len(copies) else prompts)
    sizes = np.bincount(asked, minlength=1)
    shared = np.flatnonzero(sizes > 1)
    groups = [np.flatnonzero(asked == prompt)[:SHOWN] for prompt in shared[:SHOWN]]
    return Duplicates(
        unique=unique,
        n_copies=len(copies),
        copies=shown,
        repeated_prompts=len(rows) - int((sizes > 0).sum()) if len(rows) else 0,
        n_conflicts=len(shared),
        conflict_rows=int(sizes[shared].sum()),
        conflicts=[[names[int(unique[i])] for i in group] for group in groups],
    )


def find_leaks(prompts: Hashes, held_out: Hashes, names: Sequence[str], held_out_names: Sequence[str]) -> Leaks:
    """Rows whose prompt is also in a held-out set, each with the first held-out row that has it."""
    likely = np.flatnonzero(_among(prompts[:, 0], np.unique(held_out[:, 0])))  # half of the hash leaves hardly any
    first = first_equal(np.concatenate([held_out, prompts[likely]]))[len(held_out) :]
    leaked = first < len(held_out)
    rows, sources = likely[leaked], first[leaked]
    shown = zip(rows[:SHOWN], sources[:SHOWN], strict=True)
    return Leaks(rows, [(names[int(i)], held_out_names[int(j)]) for i, j in shown])


def _among(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """[N] which values are among the known ones, which ascend; a stretch at a time, for searching takes memory."""
    found = np.zeros(len(values), dtype=np.bool_)
    for start in range(0, len(values) if len(known) else 0, _STRETCH):
        some = values[start : start + _STRETCH]
        place = np.minimum(np.searchsorted(known, some), len(known) - 1)
        found[start : start + _STRETCH] = known[place] == some
    return found


def first_equal(hashes: Hashes) -> NDArray[np.uint32]:
    """[N] for every row the number of the first row with the same hash. At the peak it takes 25 bytes per row."""
    count = len(hashes)
    first = np.empty(count, dtype=np.uint32)
    if not count:
        return first
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))  # stable: of equal rows the first stays first
    new = np.ones(count, dtype=np.bool_)
    for half in (0, 1):
        column = hashes[order, half]
        differs = column[1:] != column[:-1]
        new[1:] = differs if half == 0 else new[1:] | differs
    del column, differs
    group = np.cumsum(new, dtype=np.uint32)
    group -= 1
    first[order] = order[new].astype(np.uint32)[group]
    return first
