"""Rows as they are read, and the two ways in which one can fail: it is wrong, or it has nothing to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from burnish.core.errors import UserError

SHOWN_ROWS = 20
MOST_DROPPED = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a source: its columns, its file, and the line (or row number) where it starts, counted from 1."""

    fields: dict[str, Any]
    file: str
    line: int

    @property
    def place(self) -> str:
        """``file:line``."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that is wrong: what was expected in which field, what was found, and how to mend it."""

    file: str
    line: int
    field: str
    expected: str
    found: str
    fix: str = ""

    def __str__(self) -> str:
        text = f"{self.file}:{self.line}  field `{self.field}`: expected {self.expected}, found {self.found}"
        return f"{text}; {self.fix}" if self.fix else text


@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that is left out and listed: it has no target, is empty, or is too long."""

    id: str
    reason: str

    def to_json(self) -> dict[str, str]:
        """The row as a JSON object."""
        return {"id": self.id, "reason": self.reason}


class BadRows:
    """Rows that are wrong: the first of them, and how often each fault occurs. It grows with the faults, not the rows.

    Attributes:
        first: The first rows, as many as are shown.
        count: How many there are.
        faults: Their number by fault.
        files: The files that hold them, in order.
    """

    def __init__(self, rows: Iterable[BadRow] = ()) -> None:
        self.first: list[BadRow] = []
        self.faults: Counter[str] = Counter()
        self.files: dict[str, None] = {}
        for row in rows:
            self.add(row)

    @property
    def count(self) -> int:
        """How many rows are wrong."""
        return self.faults.total()

    def add(self, row: BadRow) -> None:
        """Take note of one more."""
        if len(self.first) < SHOWN_ROWS:
            self.first.append(row)
        self.faults[f"`{row.field}`: expected {row.expected}"] += 1
        self.files[row.file] = None

    def extend(self, other: BadRows) -> None:
        """Take note of those that were found elsewhere, behind these."""
        self.first += other.first[: SHOWN_ROWS - len(self.first)]
        self.faults.update(other.faults)
        self.files |= other.files


class DroppedRows:
    """Rows that are left out: the first thousand, and how often each reason occurs."""

    def __init__(self) -> None:
        self.first: list[Dropped] = []
        self.reasons: Counter[str] = Counter()

    @property
    def count(self) -> int:
        """How many rows are left out."""
        return self.reasons.total()

    def add(self, row: Dropped) -> None:
        """Take note of one more."""
        if len(self.first) < MOST_DROPPED:
            self.first.append(row)
        self.reasons[row.reason.split(":")[0]] += 1

    def extend(self, other: DroppedRows) -> None:
        """Take note of those that were found elsewhere, behind these."""
        self.first += other.first[: MOST_DROPPED - len(self.first)]
        self.reasons.update(other.reasons)


@dataclass(frozen=True)
class ReadFile:
    """One file that was read: its hash, its rows and the places of its undecodable bytes (the first lines of them)."""

    path: str
    sha256: str | None
    rows: int
    bad_bytes: int = 0
    bad_byte_rows: int = 0
    bad_byte_lines: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The file as a JSON object."""
        return {**asdict(self), "bad_byte_lines": list(self.bad_byte_lines)}


@dataclass
class Read:
    """What the first pass over a source found. The rows themselves are read again when they are needed.

    Attributes:
        rows: How many rows there are.
        columns: Their columns, in the order in which they first occur.
        first: The columns of the first row.
        files: The files, with their hashes.
        bad: Rows that could not be read.
        notes: What the user should know.
    """

    rows: int = 0
    columns: dict[str, None] = field(default_factory=dict)
    first: dict[str, Any] = field(default_factory=dict)
    files: list[ReadFile] = field(default_factory=list)
    bad: BadRows = field(default_factory=BadRows)
    notes: list[str] = field(default_factory=list)

    def extend(self, other: Read) -> None:
        """Take note of what was found in a further file."""
        self.first = self.first if self.rows else other.first
        self.rows += other.rows
        self.columns |= other.columns
        self.files += other.files
        self.bad.extend(other.bad)
        self.notes += other.notes


def refuse_bad_rows(bad: BadRows, *, what: str = "") -> None:
    """Raise one error that lists the bad rows: the first twenty, the count of all, and how often each fault occurs.

    Raises:
        UserError: There is a bad row.
    """
    if not bad.count:
        return
    lines = [f"  {row}" for row in bad.first]
    if bad.count > SHOWN_ROWS:
        lines.append(f"  … and {bad.count - SHOWN_ROWS} more. All of them by fault:")
        lines += [f"  {count} times {fault}" for fault, count in bad.faults.most_common(10)]
    noun = "row is" if bad.count == 1 else "rows are"
    head = f"{bad.count} {noun} wrong" + (f" ({what})" if what else "")
    where = next(iter(bad.files)) if len(bad.files) == 1 else f"{len(bad.files)} files"
    fix = "mend these rows, or map the columns in the recipe"
    raise UserError(head + ":\n" + "\n".join(lines), where=where, fix=fix)


def describe(value: Any) -> str:
    """A value for an error message: its kind, and its beginning."""
    if value is None:
        return "nothing"
    kinds = {str: "text", bool: "a truth value", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    kind = kinds.get(type(value), type(value).__name__)
    shown = repr(value)
    return f"{kind} {shown[:60]}{'…' if len(shown) > 60 else ''}"
