"""Rows as they are read, and the two ways in which one can fail: it is wrong, or it has nothing to learn from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.core.errors import UserError

SHOWN_ROWS = 20


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


@dataclass(frozen=True)
class ReadFile:
    """One file that was read: its hash, its rows and the places of its undecodable bytes."""

    path: str
    sha256: str | None
    rows: int
    bad_bytes: int = 0
    bad_byte_lines: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The file as a JSON object; the lines with bad bytes are cut to the first twenty."""
        return {
            "path": self.path,
            "sha256": self.sha256,
            "rows": self.rows,
            "bad_bytes": self.bad_bytes,
            "bad_byte_rows": len(self.bad_byte_lines),
            "bad_byte_lines": list(self.bad_byte_lines[:SHOWN_ROWS]),
        }


@dataclass
class Read:
    """Everything that a source gave."""

    rows: list[Row] = field(default_factory=list)
    files: list[ReadFile] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def refuse_bad_rows(bad: Sequence[BadRow], *, what: str = "") -> None:
    """Raise one error that lists the bad rows: the first twenty, the count of all, and how often each fault occurs.

    Raises:
        UserError: There is a bad row.
    """
    if not bad:
        return
    ordered = list(bad)
    lines = [f"  {row}" for row in ordered[:SHOWN_ROWS]]
    if len(ordered) > SHOWN_ROWS:
        kinds = Counter(f"`{row.field}`: expected {row.expected}" for row in ordered)
        lines.append(f"  … and {len(ordered) - SHOWN_ROWS} more. All of them by fault:")
        lines += [f"  {count} times {kind}" for kind, count in kinds.most_common(10)]
    noun = "row is" if len(ordered) == 1 else "rows are"
    head = f"{len(ordered)} {noun} wrong" + (f" ({what})" if what else "")
    places = {row.file for row in ordered}
    where = next(iter(places)) if len(places) == 1 else f"{len(places)} files"
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
