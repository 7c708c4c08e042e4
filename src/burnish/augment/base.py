"""What all kinds share: the registry, and how a method that changes one row at a time makes its copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.augment.words import Words
from burnish.core.errors import UserError
from burnish.data.augmenting import Method, Source, Variant
from burnish.models.config import ModelConfig
from burnish.models.fetch import fetch
from burnish.models.load import Loaded

OpenRun = Callable[[str], Loaded]
"""Opens the model of a run."""
Edit = Callable[[Words, Source, Any], list[dict[str, Any]]]
"""Changes the words of one copy of a row in place, and says what it did; an empty list for nothing."""


@dataclass
class Edits:
    """A method that needs no model: an edit of the words, once for each copy.

    Attributes:
        name: Of the recipe's entry.
        config: Its settings.
        seed: Seed of what it draws.
        edit: What is done to the words.
    """

    name: str
    config: Any
    seed: int
    edit: Edit

    def fingerprint(self) -> Any:
        """Settings and seed are all that decides."""
        return [self.name, self.seed]

    def variants(self, rows: Sequence[Source]) -> list[list[Variant]]:
        """So many copies of each row as the recipe asks for."""
        return [[v for _ in range(self.config.copies) if (v := self._one(row)) is not None] for row in rows]

    def _one(self, row: Source) -> Variant | None:
        words = Words.of(row.text)
        changes = self.edit(words, row, self.config)
        return Variant(str(words), changes) if changes else None


def replacement(place: int, before: str, after: str, **more: Any) -> dict[str, Any]:
    """What was changed at a place, as JSON; places are those of the source's words, counted from 0."""
    return {"place": place, "from": before, "to": after, **more}


def model_hash(path: str) -> Any:
    """What tells a model's weights from others: their hash, or the commit of a hub model."""
    origin = fetch(ModelConfig(path=path)).origin
    known = {name: origin[name] for name in ("sha256", "fingerprint", "commit", "revision") if name in origin}
    return known or origin


def reject(what: str, where: str, fix: str) -> UserError:
    """A refusal that names the entry's setting."""
    return UserError(what, where=f"data.augment: {where}", fix=fix)


Maker = Callable[[str, Any, int, OpenRun], Method]
"""Makes a method from its name, settings, seed, and what opens a run; models are loaded when they are first used."""
