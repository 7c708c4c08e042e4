"""What tells recipes apart: a result that was kept counts only for the recipe that it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from burnish.adapters.registry import METHODS
from burnish.train.config import RunConfig


def key_of(config: RunConfig, **further: Any) -> str:
    """A hash of a recipe, wherever it writes.

    Every setting counts, given or by default, and the methods' own learning rates: where another version has another
    default, it is another recipe.

    Args:
        config: The recipe.
        further: What else the result depends on.
    """
    rates = [METHODS[adapter.method].learning_rate for adapter in config.adapters]
    return hash_of({**config.model_dump(mode="json"), "output": None, "rates": rates, **further})


def hash_of(values: Mapping[str, Any]) -> str:
    """A hash of values, in whatever order they are named."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()
