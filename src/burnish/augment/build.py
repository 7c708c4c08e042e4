"""From the recipe's `data.augment` to methods: the table of kinds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.augment.adversarial import adversarial
from burnish.augment.back_translation import back_translation
from burnish.augment.base import Maker, OpenRun
from burnish.augment.delete import delete
from burnish.augment.insert import insert
from burnish.augment.masked import masked
from burnish.augment.paraphrase import paraphrase
from burnish.augment.spelling import spelling
from burnish.augment.swap import swap
from burnish.augment.synonyms import synonyms
from burnish.data.augment_config import AugmentConfig
from burnish.data.augmenting import Method, entry_names

KINDS: Mapping[str, Maker] = {
    "delete": delete,
    "swap": swap,
    "spelling": spelling,
    "insert": insert,
    "synonyms": synonyms,
    "masked": masked,
    "back_translation": back_translation,
    "paraphrase": paraphrase,
    "adversarial": adversarial,
}
"""What makes the method of an entry, by its ``kind``."""


def methods_of(entries: Sequence[AugmentConfig], seed: int, open_run: OpenRun) -> list[Method]:
    """The methods of a recipe's entries; no model is loaded yet.

    Args:
        entries: `data.augment`.
        seed: The run's seed, for entries without their own.
        open_run: Opens the model of a run.

    Raises:
        UserError: What a kind needs is not there.
    """
    names = entry_names(entries)
    return [_made(entry, name, seed, open_run) for entry, name in zip(entries, names, strict=True)]


def code_hash() -> str:
    """A hash of this room's code, which new rows follow from."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def _made(entry: Any, name: str, seed: int, open_run: OpenRun) -> Method:
    return KINDS[entry.kind](name, entry, entry.seed if entry.seed is not None else seed, open_run)
