"""Held-out rows: seeded, disjoint, whole groups, equal shares."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from burnish.core.errors import UserError
from burnish.data.config import SplitConfig
from burnish.data.duplicates import find_duplicates, find_leaks
from burnish.data.example import Example
from burnish.data.keys import KeyBook, Keys
from burnish.data.splits import check_column, choose_rows, split_rows


def examples(count: int, groups: int = 0, labels: str = "") -> list[Example]:
    return [
        Example(
            f"f:{i}",
            prompt=f"p{i}",
            completion="c",
            fields={"author": str(i % groups) if groups else None, "label": labels[i % len(labels)] if labels else ""},
        )
        for i in range(count)
    ]


def split_examples(rows: list[Example], config: SplitConfig, *, seed: int) -> dict[str, list[Example]]:
    """The rows of each part, by the numbers that they are given."""
    book = KeyBook(len(rows), config.group or config.stratify)
    book.add(rows)
    check_column(list(rows[0].fields), config)
    parts = split_rows(len(rows), config, seed=seed, values=book.finish().values)
    return {name: [rows[i] for i in numbers] for name, numbers in parts.items()}


def ids(parts: dict[str, list[Example]]) -> dict[str, list[str]]:
    return {name: [e.id for e in rows] for name, rows in parts.items()}


@settings(max_examples=60, deadline=None)
@example(count=4, validation=0.375, test=0.375, seed=0)
@given(st.integers(3, 200), st.floats(0, 0.4), st.floats(0, 0.4), st.integers(0, 99))
def test_every_row_is_in_exactly_one_part(count: int, validation: float, test: float, seed: int) -> None:
    """Shares are rounded to rows, and to one at least; where both take all (0.375 of 4 rows is 2, twice), they are
    refused."""
    rows, config = examples(count), SplitConfig(validation=validation, test=test)
    if sum(max(1, round(share * count)) for share in (validation, test) if share) >= count:
        with pytest.raises(UserError, match="leaves none for training"):
            split_examples(rows, config, seed=seed)
        return
    parts = ids(split_examples(rows, config, seed=seed))
    assert sorted(sum(parts.values(), start=[])) == sorted(e.id for e in rows)  # noqa: RUF017  # three parts
    assert parts["train"]
    assert all(p == sorted(p, key=lambda i: int(i[2:])) for p in parts.values()), "the order of the source is kept"
    assert parts == ids(split_examples(rows, config, seed=seed))


def test_amounts() -> None:
    """100 rows: 7 rows by number, a tenth by share; a share of almost nothing is still one row."""
    parts = split_examples(examples(100), SplitConfig(validation=7, test=0.1), seed=0)
    assert {n: len(p) for n, p in parts.items()} == {"train": 83, "validation": 7, "test": 10}
    assert len(split_examples(examples(100), SplitConfig(validation=0.0001), seed=0)["validation"]) == 1


def test_validation_does_not_move_the_test_rows() -> None:
    """The comparison between two recipes stays fair when one holds out more for validation."""
    few, many = (ids(split_examples(examples(100), SplitConfig(validation=n, test=20), seed=3)) for n in (5, 30))
    assert few["test"] == many["test"]


def test_groups_stay_together() -> None:
    """Thirty authors with ten rows each: whoever is in the test is nowhere else."""
    rows = examples(300, groups=30)
    parts = split_examples(rows, SplitConfig(validation=30, test=30, group="author"), seed=0)
    authors = [{e.fields["author"] for e in parts[n]} for n in ("train", "validation", "test")]
    assert not authors[0] & authors[1] and not authors[0] & authors[2] and not authors[1] & authors[2]
    assert len(parts["test"]) == 30


def test_strata_keep_their_shares() -> None:
    """Labels a, a, b, c in turn: 100 of 400 rows hold 50 a, 25 b, 25 c."""
    parts = split_examples(examples(400, labels="aabc"), SplitConfig(validation=0, test=100, stratify="label"), seed=0)
    assert Counter(e.fields["label"] for e in parts["test"]) == {"a": 50, "b": 25, "c": 25}


def test_shares_that_do_not_divide_go_to_the_largest_remainders() -> None:
    """Ten rows of a, a, b in turn: 7 a and 3 b; five of them are 3.5 and 1.5, so 4 and 1 or 3 and 2."""
    parts = split_examples(examples(10, labels="aab"), SplitConfig(validation=0, test=5, stratify="label"), seed=0)
    assert Counter(e.fields["label"] for e in parts["test"]) in ({"a": 4, "b": 1}, {"a": 3, "b": 2})


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (SplitConfig(validation=5, test=5), "leaves none for training"),
        (SplitConfig(validation=1, group="autor"), "no column `autor`"),
        (SplitConfig(validation=1, stratify="labl"), "no column `labl`"),
    ],
)
def test_splits_that_cannot_be_made(config: SplitConfig, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        split_examples(examples(10, groups=2, labels="ab"), config, seed=0)
    assert caught.value.fix


def test_a_smaller_choice_is_part_of_a_larger_one() -> None:
    small, large = (set(choose_rows(100, n, seed=1).tolist()) for n in (10, 50))
    assert small < large
    assert len(small) == 10


def pair(number: int, prompt: str, completion: str) -> Example:
    return Example(f"f:{number}", prompt=prompt, completion=completion)


def keys_of(*rows: Example) -> Keys:
    book = KeyBook(len(rows), None)
    book.add(rows)
    return book.finish()


def test_duplicates_by_hand() -> None:
    """Row 3 copies row 1; rows 2 and 4 ask the same and differ in the answer."""
    rows = [pair(1, "a", "x"), pair(2, "b", "x"), pair(3, "a", "x"), pair(4, "b", "y")]
    keys = keys_of(*rows)
    found = find_duplicates(keys.rows, keys.prompts, keys.names)
    assert [rows[i].id for i in found.unique] == ["f:1", "f:2", "f:4"]
    assert (found.n_copies, found.n_conflicts, found.conflict_rows) == (1, 1, 2)
    assert found.copies == [("f:3", "f:1")]
    assert found.conflicts == [["f:2", "f:4"]]
    assert found.repeated_prompts == 2


def test_prompt_and_completion_are_not_run_together() -> None:
    """`ab` + `c` and `a` + `bc` are one text, but not one row."""
    keys = keys_of(pair(1, "ab", "c"), pair(2, "a", "bc"))
    assert len(find_duplicates(keys.rows, keys.prompts, keys.names).unique) == 2


def test_leaks_are_found_by_prompt() -> None:
    """An evaluation question in the training rows is a leak whatever its answer is there."""
    ours, held = keys_of(pair(1, "a", "x"), pair(2, "b", "y")), keys_of(pair(8, "c", "z"), pair(9, "b", "z"))
    leaks = find_leaks(ours.prompts, held.prompts, ours.names, held.names)
    assert (leaks.rows.tolist(), leaks.first) == ([1], [("f:2", "f:9")])
