"""The shares of rows, and what a lone process and several agree on, without starting any."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.core.dealing import takers
from burnish.train.distributed.shares import Share, counted, in_step
from tests.distributed.fakes import Three


@settings(max_examples=200, deadline=None)
@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40), size=st.integers(1, 9))
def test_every_row_goes_to_one_process(lengths: list[int], size: int) -> None:
    """The shares are a partition of the rows, in their order, and differ by one row at most."""
    table, rows = np.asarray(lengths), np.arange(len(lengths))[::-1].copy()
    shares = [Share(rank, size).of(rows, table).tolist() for rank in range(size)]
    assert sorted(row for share in shares for row in share) == sorted(rows.tolist())
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share == sorted(share, reverse=True) for share in shares)


def test_shares_are_even() -> None:
    """Lengths 9, 8, 7, 3, 2, 1 on two processes: 9 + 3 + 2 against 8 + 7 + 1 tokens.

    The longest first, each to the process with fewer tokens: 9 | 8; 7 joins 8 (15); 3 joins 9 (12); 2 joins 12 (14),
    which has three rows then; 1 goes to the other (16).
    """
    lengths = np.asarray([1, 9, 2, 8, 3, 7])
    rows = np.arange(6)
    assert lengths[Share(0, 2).of(rows, lengths)].tolist() == [9, 2, 3]
    assert lengths[Share(1, 2).of(rows, lengths)].tolist() == [1, 8, 7]


def test_one_process_has_all_rows() -> None:
    rows = np.asarray([4, 2, 7])
    assert Share().of(rows, np.arange(1, 9)) is rows


def test_a_thousand_processes_and_a_resume_on_sixty_four() -> None:
    """A simulation of the dealing alone: updates of 4,096 rows, of 1,500 and of 700, which leave processes without any.

    Every row goes to exactly one process, whose numbers of rows differ by one at most. With four rows a process none
    has more than the mean and one longest row. A run that goes on with 64 processes finds the same rows in an update.
    """
    lengths, start = np.random.default_rng(0).integers(10, 2000, 6296), 0
    for count in (4096, 1500, 700):
        rows = np.arange(start, start + count)
        start += count
        for size in (1024, 64):
            shares = takers(lengths[rows], size)
            held = np.bincount(shares, minlength=size)
            assert held.sum() == count and held.max() - held.min() <= 1
            work = np.bincount(shares, weights=lengths[rows], minlength=size)
            assert work.max() <= work.mean() + lengths[rows].max()
        for rank in (0, 511, 1023):
            assert np.array_equal(Share(rank, 1024).of(rows, lengths), rows[takers(lengths[rows], 1024) == rank])


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_who_has_fewer_passes_computes_idle_ones(rank: int) -> None:
    """Of three processes with 2, 1 and 0 micro-batches each makes two passes; one of two replayed ones is one each.

    Three further micro-batches, of a regularizer, are dealt out one by one.
    """
    own = [[{"row_ids": (1,)}, {"row_ids": (2,)}], [{"row_ids": (3,)}], []][rank]
    further = [{"row_ids": (n,), "source": "general"} for n in (7, 8)]
    group = Three(rank, [[1.0 * (r < 2), 2.0 - r] for r in range(3)])
    found = in_step(group, own, further, {"": {"row_ids": (9,)}}, group.terms)
    assert [b.get("source", "") for b in found] == ["", "", "general"]
    real = [row for batch in counted(found) for row in batch["row_ids"]]
    assert real == [[1, 2, 7], [3, 8], []][rank]
