"""What an engine cannot carry, said before any process starts: one table from engine to setting, cause and fix."""

from __future__ import annotations

from burnish.train.config import RunConfig


def refuse(config: RunConfig, processes: int) -> None:
    """Refuse."""
