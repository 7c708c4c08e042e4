"""Random swap: words change places."""

from __future__ import annotations

from typing import Any

from burnish.augment.base import Edits, OpenRun, replacement
from burnish.augment.words import Words, chosen_count
from burnish.data.augment_config import SwapConfig
from burnish.data.augmenting import Source


def swap(name: str, config: SwapConfig, seed: int, open_run: OpenRun) -> Edits:
    """Two words change places, ``rate`` times the number of words (Wei and Zou, 2019, section 2).

    Unlike there, negations and words of feeling stay where they are, for what they refer to hangs on their place.
    """
    return Edits(name, config, seed, _edit)


def _edit(words: Words, row: Source, config: SwapConfig) -> list[dict[str, Any]]:
    free = words.plain()
    if len(free) < 2:
        return []
    changes = []
    for _ in range(chosen_count(len(words), config.rate)):
        a, b = sorted(row.draw.sample(free, 2))
        first, second = words.words[a], words.words[b]
        words.words[a], words.words[b] = second, first
        changes.append(replacement(a, first, second, with_place=b))
    return changes
