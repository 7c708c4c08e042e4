"""Methods that a kind of tiny model cannot carry, and what the refusal says.

Tests over every method and model skip these pairs; the contract holds that each is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest

REFUSED: Mapping[tuple[str, str], str] = {
    ("bitfit", "llama"): "a llama model has no biases",
    ("bitfit", "t5"): "a t5 model has no biases",
}


def skip_refused(method: str, model: str) -> None:
    """Skip a test of a pair in ``REFUSED``; ``model`` may be followed by a variant, as in `bert cls`."""
    said = REFUSED.get((method, model.split()[0]))
    if said is not None:
        pytest.skip(f"refused: {said}")
