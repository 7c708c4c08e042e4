"""Spelling noise: slips of the finger on a keyboard."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

from burnish.augment.base import Edits, OpenRun, replacement
from burnish.augment.words import Words, chosen_count
from burnish.data.augment_config import SpellingConfig
from burnish.data.augmenting import Source

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
SHORTEST = 4
"""Shorter words become other words too easily."""


def _beside() -> dict[str, str]:
    """The keys beside each letter on a QWERTY keyboard: left and right, and the two above and below."""
    keys: dict[str, str] = {}
    for r, row in enumerate(_ROWS):
        for c, letter in enumerate(row):
            near = [(r, c - 1), (r, c + 1), (r - 1, c), (r - 1, c + 1), (r + 1, c - 1), (r + 1, c)]
            keys[letter] = "".join(_ROWS[i][j] for i, j in near if 0 <= i < 3 and 0 <= j < len(_ROWS[i]))
    return keys


BESIDE = _beside()


def _neighbour(word: str, place: int, draw: random.Random) -> str:
    near = BESIDE.get(word[place].lower())
    return word[:place] + draw.choice(near) + word[place + 1 :] if near else word


def _double(word: str, place: int, draw: random.Random) -> str:
    return word[:place] + word[place] + word[place:]


def _leave_out(word: str, place: int, draw: random.Random) -> str:
    return word[:place] + word[place + 1 :]


def _turn(word: str, place: int, draw: random.Random) -> str:
    return word[: place - 1] + word[place] + word[place - 1] + word[place + 1 :]


SLIPS: Mapping[str, Callable[[str, int, random.Random], str]] = {
    "neighbouring key": _neighbour,
    "letter twice": _double,
    "letter left out": _leave_out,
    "letters swapped": _turn,
}
"""What goes wrong, each from a word, a place behind its first letter, and random numbers."""


def spelling(name: str, config: SpellingConfig, seed: int, open_run: OpenRun) -> Edits:
    """A share of the words of four letters and more get one slip each, never in the first letter.

    Negations and words of feeling are spelt as they were.
    """
    return Edits(name, config, seed, _edit)


def _edit(words: Words, row: Source, config: SpellingConfig) -> list[dict[str, Any]]:
    free = [place for place in words.plain() if len(words.core(place)) >= SHORTEST]
    if not free:
        return []
    changes = []
    for place in sorted(row.draw.sample(free, min(len(free), chosen_count(len(words), config.rate)))):
        old, slip = words.core(place), row.draw.choice(list(SLIPS))
        new = SLIPS[slip](old, row.draw.randrange(2, len(old)), row.draw)
        if new != old:
            changes.append(replacement(place, old, words.put(place, new), slip=slip))
    return changes
