"""What the first pass keeps of every example: split, duplicates, leaks and classes are settled without its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from burnish.data.duplicates import Hashes, hashes_of
from burnish.data.example import Example
from burnish.data.names import RowNames
from burnish.data.splits import Values


@dataclass
class Keys:
    """40 bytes of each of N examples: two hashes and a name; 4 more with a column to group or stratify by, or a label.

    Attributes:
        names: Their names.
        rows: [N, 2] hashes of what each holds: the measure of duplicates.
        prompts: [N, 2] hashes of what each is given: the measure of leaks.
        values: The column to group or stratify by, if there is one.
        labels: The names of their classes, in a classification.
    """

    names: RowNames
    rows: Hashes
    prompts: Hashes
    values: Values | None
    labels: Values | None = None

    def __len__(self) -> int:
        return len(self.names)


class KeyBook:
    """Collects the keys of one part.

    Args:
        capacity: How many examples there are at most.
        column: The column to group or stratify by.
        label: The name of an example's class, where there are classes to be found.
    """

    def __init__(self, capacity: int, column: str | None, *, label: Callable[[Example], str] | None = None) -> None:
        self.column, self.count = column, 0
        self.file, self.line = np.empty(capacity, np.int32), np.empty(capacity, np.uint32)
        self.rows, self.prompts = np.empty((capacity, 2), np.uint64), np.empty((capacity, 2), np.uint64)
        self.codes = np.empty(capacity if column else 0, np.int32)
        self.label, self.label_codes = label, np.empty(capacity if label else 0, np.int32)
        self.files: dict[str, int] = {}
        self.texts: dict[str, int] = {}
        self.labels: dict[str, int] = {}

    def add(self, examples: Sequence[Example]) -> None:
        """Take note of some examples."""
        here = slice(self.count, self.count + len(examples))
        names = RowNames.of((e.id for e in examples), self.files)
        self.file[here], self.line[here] = names.file, names.line
        self.rows[here] = hashes_of(e.key for e in examples)
        self.prompts[here] = hashes_of(e.prompt_key for e in examples)
        if self.column is not None:
            self.codes[here] = [_code(self.texts, e.fields.get(self.column)) for e in examples]
        if self.label:
            self.label_codes[here] = [_code(self.labels, self.label(e)) for e in examples]
        self.count += len(examples)

    def finish(self) -> Keys:
        """What was noted."""
        n = self.count
        names = RowNames(tuple(self.files), self.file[:n], self.line[:n])
        values = Values(self.codes[:n], tuple(self.texts), names) if self.column is not None else None
        labels = Values(self.label_codes[:n], tuple(self.labels), names) if self.label else None
        return Keys(names, self.rows[:n], self.prompts[:n], values, labels)


def joined(parts: Sequence[Keys]) -> Keys:
    """The keys of several parts, one behind the other, as if one book had collected all of them."""
    if len(parts) == 1:
        return parts[0]
    files: dict[str, int] = {}
    file = _recoded([(part.names.file, part.names.files) for part in parts], files)
    names = RowNames(tuple(files), file, np.concatenate([part.names.line for part in parts]))
    return Keys(
        names,
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.prompts for part in parts]),
        _joined_values([part.values for part in parts], names),
        _joined_values([part.labels for part in parts], names),
    )


def _joined_values(parts: Sequence[Values | None], names: RowNames) -> Values | None:
    there = [(part.codes, part.texts) for part in parts if part is not None]
    texts: dict[str, int] = {}
    return Values(_recoded(there, texts), tuple(texts), names) if there else None


def _recoded(parts: Sequence[tuple[NDArray[np.int32], Sequence[str]]], texts: dict[str, int]) -> NDArray[np.int32]:
    """Numbers of texts that each part counts by itself, as numbers of the texts of all; -1 stays."""
    return np.concatenate(
        [np.asarray([*(texts.setdefault(one, len(texts)) for one in own), -1], np.int32)[codes] for codes, own in parts]
    )


def _code(texts: dict[str, int], value: object) -> int:
    return -1 if value is None else texts.setdefault(str(value), len(texts))
