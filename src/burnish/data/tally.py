"""What is counted while rows become tokens, so that none of them has to be kept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from zlib import crc32

from burnish.data.example import Example
from burnish.data.render import Rendered

SAMPLE = 400
SLACK = 40
"""Rows that are kept beside the sample before it is drawn again."""


@dataclass(frozen=True)
class Drawn:
    """A rendered row that is looked at again.

    Attributes:
        draw: What it was drawn by: a hash of its name, the smaller the sooner.
        number: Of its example among those of its source.
        window: Of the row among those that its example became.
        example: What it was made of.
        row: Its tokens.
    """

    draw: int
    number: int
    window: int
    example: Example
    row: Rendered

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among the others."""
        return self.number, self.window


@dataclass
class Tally:
    """The rendered rows of a split, counted, and some of them kept to be looked at again.

    Which ones follows from their names alone: those with the smallest hashes. So tallies of parts, put together in
    whatever order, hold what a tally of the whole holds.

    Attributes:
        rows: How many there are.
        truncated: How many were cut.
        lost_targets: Trained tokens that were cut off.
        marks: Rows by mark (`findings.ROW_MARKS`).
        drawn: The rows that are kept, and some that are dropped again.
    """

    rows: int = 0
    truncated: int = 0
    lost_targets: int = 0
    marks: Counter[str] = field(default_factory=Counter)
    drawn: list[Drawn] = field(default_factory=list)
    _most: int = 1 << 32
    _last: tuple[int, int] = (-1, 0)

    def add(self, example: Example, row: Rendered, number: int) -> None:
        """Count one more row.

        Args:
            example: What it was made of.
            row: Its tokens.
            number: Of the example among those of its source.
        """
        window = self._last[1] + 1 if self._last[0] == number else 0
        self._last = (number, window)
        draw = crc32(f"{example.id}#{window}".encode("utf-8", "surrogatepass"))
        if draw <= self._most:
            self.drawn.append(Drawn(draw, number, window, example, row))
            if len(self.drawn) >= SAMPLE + SLACK:
                self._thin()
        self.rows += 1
        self.lost_targets += row.lost_targets
        if row.truncated:
            self.truncated += 1
        if row.marks:
            self.marks.update(row.marks)

    def extend(self, other: Tally) -> None:
        """Count the rows of another part."""
        self.rows += other.rows
        self.truncated += other.truncated
        self.lost_targets += other.lost_targets
        self.marks.update(other.marks)
        self.drawn += other.drawn
        self._thin()

    def keep(self, draws: Iterable[int]) -> None:
        """Drop what is not among the first of all draws, those of other parts included."""
        first = sorted(draws)[:SAMPLE]
        self.drawn = [d for d in self.drawn if first and d.draw <= first[-1]]

    @property
    def sample(self) -> list[tuple[Example, Rendered]]:
        """Rows with their examples, in order: all of up to 400, of more 400 that were drawn."""
        self._thin()
        return [(d.example, d.row) for d in sorted(self.drawn, key=lambda d: d.place)]

    def _thin(self) -> None:
        if len(self.drawn) > SAMPLE:
            self.drawn.sort(key=lambda d: (d.draw, d.place))
            del self.drawn[SAMPLE:]
            self._most = self.drawn[-1].draw
