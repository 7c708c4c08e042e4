"""Ratios of replayed rows, held against what a person counts; and that seed and step alone decide about them."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.data.mixing import Mix, Part, kept_rows, mix_rows, mix_tokens, ratios, targets

LENGTHS = np.array([10, 20, 30, 40, 50], dtype=np.int64)
ONE = [Part("a", np.arange(5))]


def rows(units: list[float], ends: tuple[float, float], parts: list[Part] = ONE, seed: int = 0) -> Mix:
    given = np.array(units)
    return mix_rows(parts, LENGTHS, targets(given, ratios(ends, len(units))), given, seed)


def counts(mix: Mix) -> list[int]:
    return np.diff(mix.begins).tolist()


def test_rows_hold_the_ratio_to_half_a_row_at_every_update() -> None:
    """A ratio of 1/5 asks for b/4 rows beside b of the task. Updates of 4, 4 and 2 rows: R = 1, 2, 2.5, so 1, 1 and 1
    are replayed (2.5 is rounded up), and in the second epoch R = 3.5, 4.5, 5: 4, 5, 5. Two epochs hold 5 of 25 rows,
    exactly a fifth."""
    mix = rows([4, 4, 2, 4, 4, 2], (0.2, 0.2))
    assert counts(mix) == [1, 1, 1, 1, 1, 0]
    assert len(mix.rows) / (len(mix.rows) + 20) == 0.2
    np.testing.assert_array_equal(mix.shares, [0.25, 0.25, 0.5, 0.25, 0.25, 0.0])


def test_a_ratio_of_a_tenth_loses_no_row_to_rounding() -> None:
    """0.1 / 0.9 = 1/9 is no binary number: 90 updates of 9 rows ask for 90 rows, 1 in each."""
    assert counts(rows([9.0] * 90, (0.1, 0.1))) == [1] * 90


def test_a_schedule_moves_along_its_line() -> None:
    """From 0.5 to 0 over 5 updates of 12 rows: r = 4/8, 3/8, 2/8, 1/8, 0, so r / (1 - r) = 1, 3/5, 1/3, 1/7, 0 and R =
    12, 19.2, 23.2, 24.91, 24.91; rounded 12, 19, 23, 25, 25."""
    assert counts(rows([12.0] * 5, (0.5, 0.0))) == [12, 7, 4, 2, 0]


def test_every_row_comes_once_before_one_comes_again() -> None:
    mix = rows([5.0] * 4, (0.5, 0.5))  # 20 replayed rows of 5: four passes
    passes = mix.rows.reshape(4, 5)
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes.tolist())
    assert len({tuple(one) for one in passes.tolist()}) > 1


def test_weights_divide_the_rows_between_the_parts() -> None:
    """Weights 2 and 1 and 30 replayed rows: 20 of the first part, 10 of the second, and never off by more than one."""
    parts = [Part("a", np.array([0, 1]), 2.0), Part("b", np.array([2, 3, 4]), 1.0)]
    mix = rows([10.0] * 3, (0.5, 0.5), parts)
    assert np.bincount(mix.parts).tolist() == [20, 10]
    assert set(mix.rows[mix.parts == 0]) == {0, 1} and set(mix.rows[mix.parts == 1]) == {2, 3, 4}
    for count in range(1, 31):
        assert abs((mix.parts[:count] == 0).sum() - count * 2 / 3) <= 1


def test_seed_and_step_decide() -> None:
    again, other = rows([5.0] * 4, (0.5, 0.5)), rows([5.0] * 4, (0.5, 0.5), seed=1)
    np.testing.assert_array_equal(again.rows, rows([5.0] * 4, (0.5, 0.5)).rows)
    assert again.rows.tolist() != other.rows.tolist()
    # a longer training begins with the same rows, so what comes later has no say in what came before
    np.testing.assert_array_equal(rows([5.0] * 8, (0.5, 0.5)).rows[:20], again.rows)


def test_tokens_hold_the_ratio_to_the_token_where_an_epoch_ends() -> None:
    """A quarter of the tokens beside 99, 100 and 101 tokens of the task: R = 33, 66.67, 100. Rows of 30 in order: 30
    (33 allow one), 60 (two), and at the end of the epoch 90 and a row that is cut to 10: exactly 100, a quarter of
    400."""
    units, lengths = np.array([99.0, 100.0, 101.0]), np.array([30, 30, 30], dtype=np.int64)
    part = [Part("a", np.arange(3))]
    wanted = targets(units, ratios((0.25, 0.25), 3))
    mix = mix_tokens(part, lengths, wanted, units, 0, [2], lambda row, length: True)
    assert mix.lengths.tolist() == [30, 30, 30, 10] and counts(mix) == [1, 1, 2]
    np.testing.assert_allclose(mix.shares, [30 / 99, 30 / 100, 40 / 101])
    whole = mix_tokens(part, lengths, wanted, units, 0, [2], lambda row, length: False)
    assert whole.lengths.tolist() == [30, 30, 30]  # what cannot be cut is carried into the next epoch


def test_a_row_that_is_longer_than_an_update_allows_waits() -> None:
    """R = 5, 10, 15, 20 tokens and rows of 20: nothing, nothing, nothing, one row."""
    units = np.full(4, 5.0)
    mix = mix_tokens([Part("a", np.array([1]))], LENGTHS, np.array([5.0, 10, 15, 20]), units, 0, [3], lambda *_: True)
    assert counts(mix) == [0, 0, 0, 1] and mix.lengths.tolist() == [20]


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (3, {"a": 1, "b": 1, "c": 1}),
        (6, {"a": 4, "b": 1, "c": 1}),  # two each; b and c have one, and a takes what is left
        (4, {"a": 2, "b": 1, "c": 1}),
        (50, {"a": 8, "b": 1, "c": 1}),
    ],
)
def test_a_balanced_buffer_gives_every_group_the_same(most: int, expected: dict[str, int]) -> None:
    groups = ["a"] * 8 + ["b", "c"]
    kept = kept_rows(groups, most, seed=0)
    assert {name: [groups[i] for i in kept].count(name) for name in "abc"} == expected
    assert kept.tolist() == sorted(set(kept.tolist()))


def test_a_random_buffer_is_a_choice_without_repeats() -> None:
    """Each of 10 rows is kept in 3 of 10 choices on average: over 400 seeds 120 times, give or take 9."""
    kept = [kept_rows([""] * 10, 3, seed) for seed in range(400)]
    assert all(len(set(one.tolist())) == 3 for one in kept)
    assert np.all(np.abs(np.bincount(np.concatenate(kept)) - 120) < 46)
