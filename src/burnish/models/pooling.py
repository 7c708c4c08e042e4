"""How a sentence encoder's own files say that its vectors are made."""

from __future__ import annotations

import json
from pathlib import Path

from burnish.models.classifier import PoolingName

_FLAGS: dict[str, PoolingName] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
}


def declared_pooling(folder: Path) -> PoolingName | None:
    """The pooling in the `1_Pooling/config.json` of sentence-transformers; None without one, or where it is another."""
    try:
        values = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(values, dict):
        return None
    chosen = [name for name, value in values.items() if name.startswith("pooling_mode") and value is True]
    return _FLAGS.get(chosen[0]) if len(chosen) == 1 else None
