"""Text templates over columns: `"{text}\\nLabel:"`. Plain column names only, so a template can run no code."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from burnish.core.errors import UserError
from burnish.core.names import suggestion

_ADVICE = "use plain `{column}` fields; write a literal brace as `{{` or `}}`"


@dataclass(frozen=True)
class Template:
    """A parsed template: literal texts and column names in turn.

    Attributes:
        parts: Pairs of a literal text and the column after it; None where no column follows.
        columns: The columns that are filled in, in order of first use.
    """

    parts: tuple[tuple[str, str | None], ...]
    columns: tuple[str, ...]

    @classmethod
    def parse(cls, text: str, *, where: str) -> Template:
        """Parse a template.

        Args:
            text: The template.
            where: Recipe key, for errors.

        Raises:
            UserError: A brace is left open, or a field asks for more than a column's plain value.
        """
        try:
            pieces = list(string.Formatter().parse(text))
        except ValueError as error:
            raise UserError(f"the template {text!r} is broken: {error}", where=where, fix=_ADVICE) from None
        parts: list[tuple[str, str | None]] = []
        for literal, name, spec, conversion in pieces:
            if name is not None and (not name.strip() or spec or conversion):
                raise UserError(f"the template {text!r} has a field that is no plain column", where=where, fix=_ADVICE)
            parts.append((literal, name.strip() if name is not None else None))
        return cls(tuple(parts), tuple(dict.fromkeys(name for _, name in parts if name is not None)))

    def check(self, columns: Iterable[str], *, where: str) -> None:
        """Refuse a template that names a column which is not there.

        Raises:
            UserError: With the nearest column.
        """
        known = list(columns)
        for name in self.columns:
            if name not in known:
                raise UserError(f"the template names the column `{name}`", where=where, fix=suggestion(name, known))

    def fill(self, values: Mapping[str, Any]) -> str:
        """The text with every column's value filled in; an absent value (None) becomes empty."""
        return "".join(literal + (_shown(values[name]) if name is not None else "") for literal, name in self.parts)


def is_plain(value: Any) -> bool:
    """Whether a template can show the value: text, number, truth value or nothing."""
    return value is None or isinstance(value, (str, int, float))


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
