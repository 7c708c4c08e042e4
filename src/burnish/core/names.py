"""Suggest the name that a person probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, options: Iterable[str], count: int = 1) -> list[str]:
    """Return up to ``count`` options most similar to ``name``, best first; empty when none resembles it."""
    return difflib.get_close_matches(name, list(options), n=count, cutoff=0.5)


def suggestion(name: str, options: Iterable[str]) -> str:
    """A clause such as ``nearest: `rank` `` or, without a resemblance, the list of valid names."""
    known = sorted(options)
    found = nearest(name, known)
    if found:
        return f"nearest: `{found[0]}`"
    return "one of: " + ", ".join(f"`{k}`" for k in known)
