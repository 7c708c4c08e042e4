"""From row numbers to batches: which rows make an update, which of them run together, and as what tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from burnish.core.config import Config
from burnish.core.types import Batch
from burnish.data.labelled_batches import collate_labelled
from burnish.data.table import Ids, TokenTable

Layout = Literal["packed", "bucketed", "padded"]
IGNORED = -100
MICRO_BATCH_TOKENS = {"cpu": 1024, "cuda": 8192}
_EPOCH_STREAM = 0xE70C  # keeps this use of the run's seed apart from others


class BatchConfig(Config):
    """How rows are laid out in memory. It changes speed and memory, never the result."""

    layout: Literal["auto", "packed", "bucketed", "padded"] = "auto"
    """`packed`: rows end to end without padding; `bucketed`: rows of like length, padded; `padded`: in the order drawn.
    `auto`: packed where the model supports it, else bucketed."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Most tokens, padding included, of one forward pass; a longer row stands alone. Without it 1,024 on a processor,
    which is as fast as more at less memory, and 8,192 on an accelerator."""

    def settled(self, device: str) -> BatchConfig:
        """The same with its budget settled for a kind of device, such as `cpu` or `cuda`."""
        budget = self.micro_batch_tokens or MICRO_BATCH_TOKENS.get(device, MICRO_BATCH_TOKENS["cuda"])
        return self.model_copy(update={"micro_batch_tokens": budget})


def choose_layout(config: BatchConfig, packable: bool) -> Layout:
    """The layout to use.

    Args:
        config: What the recipe says.
        packable: Whether the model keeps packed rows apart (`models.attention.supports_packing`).
    """
    if config.layout == "auto":
        return "packed" if packable else "bucketed"
    return config.layout


def epoch_order(n_rows: int, *, seed: int, epoch: int, shuffle: bool = True) -> NDArray[np.int64]:
    """The order in which an epoch takes the rows; a pure function of its arguments.

    Args:
        n_rows: Rows of the table.
        seed: Seed of the run, not negative.
        epoch: Which epoch, from 0; each has its own order.
        shuffle: False keeps the order of the table.

    Returns:
        [N] every row number once. Update ``i`` of the epoch takes the ``i``-th stretch of ``batch_size``; the last one
        may be shorter.
    """
    order = np.arange(n_rows, dtype=np.int64)
    if shuffle:
        order = np.random.default_rng([_EPOCH_STREAM, seed, epoch]).permutation(order)
    return order


def micro_batches(
    rows: Sequence[int] | NDArray[np.int64],
    lengths: NDArray[np.int64],
    config: BatchConfig,
    accumulation: int | None = None,
    *,
    layout: Layout | None = None,
) -> list[list[int]]:
    """Divide the rows of one update among forward passes; every row is in exactly one.

    Args:
        rows: Row numbers.
        lengths: Length of EVERY row of the table, looked up by row number.
        config: The budget and the layout.
        accumulation: Make exactly so many micro-batches of about equal size (fewer if there are fewer rows), whatever
            the budget.
        layout: The settled layout; needed if ``config.layout`` is ``auto``.
    """
    settled = layout or config.layout
    if settled == "auto":
        raise ValueError("settle the layout first: choose_layout(config, packable)")
    numbers = [int(r) for r in rows]
    if not numbers:
        return []
    if accumulation is not None:
        return _EVENLY[settled](numbers, lengths, min(max(accumulation, 1), len(numbers)))
    return _BY_BUDGET[settled](numbers, lengths, config.micro_batch_tokens or MICRO_BATCH_TOKENS["cpu"])


def _longest_first(rows: list[int], lengths: NDArray[np.int64]) -> list[int]:
    return sorted(rows, key=lambda r: (-int(lengths[r]), r))


def _first_fit(rows: list[int], lengths: NDArray[np.int64], budget: int) -> list[list[int]]:
    """First-fit decreasing: each row into the first pack with room, the longest rows first."""
    packs: list[list[int]] = []
    free: list[int] = []
    for row in _longest_first(rows, lengths):
        need = int(lengths[row])
        place = next((i for i, room in enumerate(free) if room >= need), None)
        if place is None:
            packs.append([row])
            free.append(budget - need)
        else:
            packs[place].append(row)
            free[place] -= need
    return packs


def _by_area(rows: list[int], lengths: NDArray[np.int64], budget: int) -> list[list[int]]:
    """Rows in the given order, a new micro-batch when the padded area would exceed the budget."""
    groups: list[list[int]] = []
    widest = 0
    for row in rows:
        width = max(widest, int(lengths[row]))
        if groups and width * (len(groups[-1]) + 1) <= budget:
            groups[-1].append(row)
            widest = width
        else:
            groups.append([row])
            widest = int(lengths[row])
    return groups


def _sorted_by_area(rows: list[int], lengths: NDArray[np.int64], budget: int) -> list[list[int]]:
    return _by_area(_longest_first(rows, lengths), lengths, budget)


def _even_packs(rows: list[int], lengths: NDArray[np.int64], count: int) -> list[list[int]]:
    """Longest row first, each into the emptiest pack; the first ``count`` rows make sure that none stays empty."""
    packs: list[list[int]] = [[] for _ in range(count)]
    sizes = [0] * count
    for number, row in enumerate(_longest_first(rows, lengths)):
        place = number if number < count else sizes.index(min(sizes))
        packs[place].append(row)
        sizes[place] += int(lengths[row])
    return packs


def _even_groups(rows: list[int], lengths: NDArray[np.int64], count: int) -> list[list[int]]:
    return [[rows[int(i)] for i in part] for part in np.array_split(np.arange(len(rows)), count)]


def _even_buckets(rows: list[int], lengths: NDArray[np.int64], count: int) -> list[list[int]]:
    """Neighbours in length together: the smallest area per micro-batch for which ``count`` of them suffice."""
    ordered = _longest_first(rows, lengths)
    low, high = int(lengths[ordered[0]]), int(lengths[ordered[0]]) * len(ordered)
    while low < high:
        middle = (low + high) // 2
        if len(_by_area(ordered, lengths, middle)) <= count:
            high = middle
        else:
            low = middle + 1
    groups = _by_area(ordered, lengths, low)
    while len(groups) < count:
        fullest = max(
            range(len(groups)), key=lambda i: (len(groups[i]) > 1, len(groups[i]) * int(lengths[groups[i][0]]))
        )
        group = groups[fullest]
        groups[fullest : fullest + 1] = [group[: len(group) // 2], group[len(group) // 2 :]]
    return groups


_Divide = Callable[[list[int], NDArray[np.int64], int], list[list[int]]]
_BY_BUDGET: dict[str, _Divide] = {"packed": _first_fit, "bucketed": _sorted_by_area, "padded": _by_area}
_EVENLY: dict[str, _Divide] = {"packed": _even_packs, "bucketed": _even_buckets, "padded": _even_groups}


def collate(
    table: TokenTable, rows: Sequence[int], layout: Layout, pad_id: int, *, decoder_start_id: int | None = None
) -> Batch:
    """The tensors of one micro-batch.

    ``labels`` are aligned with the hidden states: position ``t`` of a row carries the row's token ``t + 1`` if that is
    trained, else -100. The mask comes from the table, never from the ids, so a padding token that is also the EOS
    hides nothing. An encoder-decoder's labels are its targets, and its decoder is given them one place later. Those of
    a classification are one class a row, [B].

    Args:
        table: The rows.
        rows: Which of them.
        layout: ``packed`` gives one row of T tokens; the others pad on the right.
        pad_id: Token that fills up.
        decoder_start_id: First token of an encoder-decoder's decoder.

    Raises:
        ValueError: An encoder-decoder's table without ``decoder_start_id``, or in the packed layout.
    """
    batch = _collate(table, tuple(int(r) for r in rows), layout, pad_id, decoder_start_id)
    if tasks := table.tasks_of(rows):
        # of a ranking the second texts lie behind all first ones
        count = len(batch["segment_lengths"]) if "segment_lengths" in batch else len(batch["input_ids"])
        batch["tasks"] = tasks * (count // len(tasks))
    return batch


def _collate(
    table: TokenTable, numbers: tuple[int, ...], layout: Layout, pad_id: int, decoder_start_id: int | None
) -> Batch:
    if table.has_head:
        return collate_labelled(table, numbers, packed=layout == "packed", pad_id=pad_id)
    if table.is_seq2seq:
        if layout == "packed" or decoder_start_id is None:
            raise ValueError("an encoder-decoder needs decoder_start_id and a padded or bucketed layout")
        return _collate_pairs(table, numbers, pad_id, decoder_start_id)
    parts = [table.row(r) for r in numbers]
    ids = [p[0] for p in parts]
    labels = [_labels(*p) for p in parts]
    return _COLLATE[layout](ids, labels, pad_id, numbers)


def _labels(ids: Ids, trained: NDArray[np.bool_]) -> NDArray[np.int64]:
    labels = np.full(len(ids), IGNORED, dtype=np.int64)
    labels[:-1][trained[1:]] = ids[1:][trained[1:]]
    return labels


def _packed(ids: list[Ids], labels: list[NDArray[np.int64]], pad_id: int, numbers: tuple[int, ...]) -> Batch:
    sizes = [len(i) for i in ids]
    return Batch(
        input_ids=_tensor(np.concatenate(ids)[None]),
        labels=_tensor(np.concatenate(labels)[None]),
        position_ids=_tensor(np.concatenate([np.arange(n) for n in sizes])[None]),
        segment_ids=_tensor(np.repeat(np.arange(len(sizes)), sizes)[None]),
        segment_lengths=tuple(sizes),
        row_ids=numbers,
    )


def _padded(ids: list[Ids], labels: list[NDArray[np.int64]], pad_id: int, numbers: tuple[int, ...]) -> Batch:
    sizes = [len(i) for i in ids]
    return Batch(
        input_ids=_tensor(_fill(ids, pad_id)),
        labels=_tensor(_fill(labels, IGNORED)),
        position_ids=_tensor(_fill([np.arange(n) for n in sizes], 0)),
        segment_ids=_tensor(_fill([np.full(n, i) for i, n in enumerate(sizes)], -1)),
        attention_mask=_tensor(_fill([np.ones(n, dtype=np.int64) for n in sizes], 0)),
        row_ids=numbers,
    )


_COLLATE: dict[str, Callable[..., Batch]] = {"packed": _packed, "bucketed": _padded, "padded": _padded}


def _collate_pairs(table: TokenTable, numbers: tuple[int, ...], pad_id: int, start_id: int) -> Batch:
    ids = [table.row(r)[0] for r in numbers]
    targets = [table.target(r) for r in numbers]
    shifted = [np.concatenate([[start_id], t[:-1]]) for t in targets]
    return Batch(
        input_ids=_tensor(_fill(ids, pad_id)),
        attention_mask=_tensor(_fill([np.ones(len(i)) for i in ids], 0)),
        decoder_input_ids=_tensor(_fill(shifted, pad_id)),
        decoder_attention_mask=_tensor(_fill([np.ones(len(t)) for t in targets], 0)),
        labels=_tensor(_fill(targets, IGNORED)),
        row_ids=numbers,
    )


def _fill(rows: Sequence[NDArray], value: int) -> NDArray[np.int64]:  # type: ignore[type-arg]
    filled = np.full((len(rows), max(len(r) for r in rows)), value, dtype=np.int64)
    for line, row in zip(filled, rows, strict=True):
        line[: len(row)] = row
    return filled


def _tensor(array: NDArray) -> torch.Tensor:  # type: ignore[type-arg]
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
