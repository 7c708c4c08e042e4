"""Random deletion: words are left out by chance."""

from __future__ import annotations

from typing import Any

from burnish.augment.base import Edits, OpenRun
from burnish.augment.words import Words
from burnish.data.augment_config import DeleteConfig
from burnish.data.augmenting import Source


def delete(name: str, config: DeleteConfig, seed: int, open_run: OpenRun) -> Edits:
    """Each word goes with probability ``rate`` (Wei and Zou, 2019, section 2), one at least, and never all.

    Unlike there, negations and words of feeling stay, since the label may hang on them.
    """
    return Edits(name, config, seed, _edit)


def _edit(words: Words, row: Source, config: DeleteConfig) -> list[dict[str, Any]]:
    free = words.plain()
    if len(words) < 2 or not free:
        return []
    gone = [place for place in free if row.draw.random() < config.rate] or [row.draw.choice(free)]
    gone = gone[: len(words) - 1]
    changes = [{"place": place, "from": words.words[place], "to": ""} for place in gone]
    for place in reversed(gone):
        words.remove(place)
    return changes
