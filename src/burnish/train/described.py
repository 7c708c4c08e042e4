"""Parts of what is written about a run before its first update."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from burnish.models.classifier import describe as describe_head
from burnish.models.load import Loaded


def hashes(summary: Mapping[str, Any]) -> dict[str, str]:
    """The hash of the tokens and masks of every split, and of the replayed rows."""
    found = {name: split.get("sha256") for name, split in summary.get("splits", {}).items()}
    return {**found, "replay": summary["replay"]["sha256"]} if "replay" in summary else found


def with_head(described: dict[str, Any], loaded: Loaded) -> dict[str, Any]:
    """What is trained, the head counted in."""
    if loaded.classifier is None:
        return described
    head = describe_head(loaded.classifier)
    total, trained = (described[key] + head["parameters"] for key in ("parameters", "trainable"))
    site = {"name": "classifier", "role": "head", "layer": None, "parameters": head["parameters"]}
    share = {"parameters": total, "trainable": trained, "trainable_share": trained / max(1, total)}
    return {**described, **share, "sites": [*described["sites"], site], "head": head}
