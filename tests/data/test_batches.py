"""Updates, micro-batches and tensors: every row once, nothing predicted across a border, no EOS lost to padding."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from burnish.data.batches import BatchConfig, choose_layout, collate, epoch_order, micro_batches
from burnish.data.render import Rendered
from burnish.data.table import TokenTable

PAD = 9  # also the EOS of the rows below


def table(rows: list[tuple[list[int], list[int]]], targets: list[list[int]] | None = None) -> TokenTable:
    rendered = [
        Rendered(ids, [bool(t) for t in mask], ids[:1], (targets or [[]] * len(rows))[i], len(ids))
        for i, (ids, mask) in enumerate(rows)
    ]
    return TokenTable.build([f"f:{i}" for i in range(len(rows))], rendered)


ROWS = [([1, 5, 6, 9], [0, 0, 1, 1]), ([1, 7, 9], [0, 1, 1])]


def test_packed_labels_by_hand() -> None:
    """Row 1 is `1 5 6 9` with `6 9` trained: position 1 predicts 6, position 2 predicts 9, position 3 nothing.

    Row 2 is `1 7 9` with `7 9` trained. Row 1's last position must not predict row 2's first token.
    """
    batch = collate(table(ROWS), [0, 1], "packed", PAD)
    assert batch["input_ids"].tolist() == [[1, 5, 6, 9, 1, 7, 9]]
    assert batch["labels"].tolist() == [[-100, 6, 9, -100, 7, 9, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert batch["segment_lengths"] == (4, 3)
    assert "attention_mask" not in batch
    assert batch["row_ids"] == (0, 1)


@pytest.mark.parametrize("layout", ["padded", "bucketed"])
def test_padded_labels_by_hand(layout: str) -> None:
    """The padding is the EOS itself; the EOS of each row is a label all the same, and the padding is none."""
    batch = collate(table(ROWS), [1, 0], layout, PAD)  # type: ignore[arg-type]
    assert batch["input_ids"].tolist() == [[1, 7, 9, 9], [1, 5, 6, 9]]
    assert batch["labels"].tolist() == [[7, 9, -100, -100], [-100, 6, 9, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, -1], [1, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0], [0, 1, 2, 3]]
    assert "segment_lengths" not in batch


def test_encoder_decoder_tensors_by_hand() -> None:
    """The decoder is given its targets one place later, behind the start token."""
    pairs = table([([4, 9], [0, 0]), ([4, 5, 9], [0, 0, 0])], targets=[[7, 8, 9], [7, 9]])
    batch = collate(pairs, [0, 1], "bucketed", PAD, decoder_start_id=0)
    assert batch["input_ids"].tolist() == [[4, 9, 9], [4, 5, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 7, 9]]
    assert batch["decoder_attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch["labels"].tolist() == [[7, 8, 9], [7, 9, -100]]
    assert pairs.lengths.tolist() == [5, 5] and pairs.n_trained == 5
    for layout, start in (("packed", 0), ("bucketed", None)):
        with pytest.raises(ValueError):
            collate(pairs, [0], layout, PAD, decoder_start_id=start)  # type: ignore[arg-type]


masked_rows = st.lists(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=8).map(
        lambda r: ([t for t, _ in r], [0, *(int(m) for _, m in r[1:])])
    ),
    min_size=1,
    max_size=6,
)


@settings(max_examples=100, deadline=None)
@given(masked_rows)
def test_every_layout_holds_the_same_labelled_positions(rows: list) -> None:
    """Oracle: (position, input token, label) triples counted straight from the rows."""
    built = table(rows)
    expected = sorted((i, ids[i], ids[i + 1]) for ids, mask in rows for i in range(len(ids) - 1) if mask[i + 1])
    for layout in ("packed", "bucketed", "padded"):
        batch = collate(built, range(len(rows)), layout, PAD)  # type: ignore[arg-type]
        triples = zip(*(batch[k].flatten().tolist() for k in ("position_ids", "input_ids", "labels")), strict=True)  # type: ignore[literal-required]
        assert sorted(t for t in triples if t[2] != -100) == expected
    assert built.n_trained == len(expected)
    assert built.trained_counts.sum() == len(expected)


def test_an_epoch_has_every_row_once_and_its_own_order() -> None:
    first = epoch_order(10, seed=3, epoch=0).tolist()
    assert sorted(first) == list(range(10)) and first == epoch_order(10, seed=3, epoch=0).tolist()
    assert epoch_order(10, seed=3, epoch=1).tolist() != first
    assert epoch_order(10, seed=4, epoch=0).tolist() != first
    assert epoch_order(5, seed=0, epoch=7, shuffle=False).tolist() == [0, 1, 2, 3, 4]
    assert not len(epoch_order(0, seed=0, epoch=0))


def test_first_fit_decreasing_by_hand() -> None:
    """Budget 10, lengths 6 5 4 3 2: the packs are 6+4 and 5+3+2."""
    lengths = np.asarray([2, 3, 4, 5, 6])
    packs = micro_batches(range(5), lengths, BatchConfig(layout="packed", micro_batch_tokens=10))
    assert packs == [[4, 2], [3, 1, 0]]


def test_a_row_over_the_budget_stands_alone() -> None:
    for layout in ("packed", "bucketed", "padded"):
        config = BatchConfig(layout=layout, micro_batch_tokens=4)  # type: ignore[arg-type]
        groups = micro_batches([0, 1, 2], np.asarray([2, 9, 2]), config)
        assert [1] in groups and sorted(chain.from_iterable(groups)) == [0, 1, 2]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=40),
    st.integers(1, 100),
    st.one_of(st.none(), st.integers(1, 12)),
    st.sampled_from(["packed", "bucketed", "padded"]),
)
def test_micro_batches_hold_every_row_once_within_the_budget(
    lengths: list[int], budget: int, accumulation: int | None, layout: str
) -> None:
    config = BatchConfig(layout=layout, micro_batch_tokens=budget)  # type: ignore[arg-type]
    groups = micro_batches(range(len(lengths)), np.asarray(lengths), config, accumulation)
    assert sorted(chain.from_iterable(groups)) == list(range(len(lengths)))
    assert all(groups)
    if accumulation is not None:
        assert len(groups) == min(accumulation, len(lengths))
        return
    for group in groups:
        sizes = [lengths[i] for i in group]
        area = sum(sizes) if layout == "packed" else max(sizes) * len(sizes)
        assert area <= budget or len(group) == 1
    if layout == "padded":
        assert list(chain.from_iterable(groups)) == list(range(len(lengths)))


def test_the_layout_is_settled_before_rows_are_divided() -> None:
    assert choose_layout(BatchConfig(), True) == "packed"
    assert choose_layout(BatchConfig(), False) == "bucketed"
    assert choose_layout(BatchConfig(layout="padded"), True) == "padded"
    with pytest.raises(ValueError, match="choose_layout"):
        micro_batches([0], np.asarray([1]), BatchConfig())
    assert micro_batches([0], np.asarray([1]), BatchConfig(), layout="packed") == [[0]]
    assert micro_batches([], np.asarray([1]), BatchConfig(layout="packed")) == []


def test_the_table_gives_rows_prompts_and_a_hash_of_its_content() -> None:
    built = table(ROWS)
    assert built.row(1)[0].tolist() == [1, 7, 9] and built.row(1)[1].tolist() == [False, True, True]
    assert built.prompt(0).tolist() == [1]
    cut = TokenTable.build(["f:1"], [Rendered([1, 5], [False, True], [3, 4], [], 4)])
    assert cut.prompt(0).tolist() == [3, 4]
    assert built.content_hash() == table(ROWS).content_hash()
    assert built.content_hash() != table(ROWS[::-1]).content_hash()
    moved = [ROWS[0], ([1, 7, 9], [0, 0, 1])]
    assert built.content_hash() != table(moved).content_hash()
    first = built.head(1)
    assert first.content_hash() == table(ROWS[:1]).content_hash() and first.ids == built.ids[:1]
    assert built.head(99).content_hash() == built.content_hash() and not len(cut.head(0).cut_rows)
    empty = TokenTable.build([], [])
    assert (len(empty), empty.n_tokens, empty.lengths.tolist(), empty.trained_counts.tolist()) == (0, 0, [], [])
