"""When checkpoints are written and how many stay."""

from __future__ import annotations

from pydantic import Field

from burnish.core.config import Config


class CheckpointConfig(Config):
    """The `checkpoint` section of a recipe."""

    every_steps: int | None = Field(None, ge=1)
    """Save after this many updates. Without it: at every evaluation. The end and Ctrl-C always save."""
    keep: int = Field(2, ge=1)
    """How many of the newest checkpoints stay on disk; the best one stays beside them."""
