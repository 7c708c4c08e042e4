"""What is counted while rows become tokens, so that none of them has to be kept."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from burnish.data.example import Example
from burnish.data.render import Rendered

SAMPLE = 200


@dataclass
class Tally:
    """The rendered rows of a split, counted, and some of them kept to be looked at again.

    Attributes:
        rows: How many there are.
        truncated: How many were cut.
        lost_targets: Trained tokens that were cut off.
        marks: Rows by mark (`findings.ROW_MARKS`).
        sample: Evenly spaced rows with their examples: all of fewer than 400, of more at least 200.
    """

    rows: int = 0
    truncated: int = 0
    lost_targets: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    sample: list[tuple[Example, Rendered]] = field(default_factory=list)
    _step: int = 1

    def add(self, example: Example, row: Rendered) -> None:
        """Count one more row."""
        if self.rows % self._step == 0:
            self.sample.append((example, row))
            if len(self.sample) == 2 * SAMPLE:
                self.sample = self.sample[::2]
                self._step *= 2
        self.rows += 1
        self.lost_targets += row.lost_targets
        if row.truncated:
            self.truncated += 1
        if row.marks:
            self.marks.update(row.marks)
