"""When checkpoints are written and how many stay."""

from __future__ import annotations

from pydantic import Field

from burnish.core.config import Config


class EmaConfig(Config):
    """The exponential moving average of the trained weights, kept in every checkpoint beside them."""

    decay: float = Field(0.99, gt=0, lt=1)
    """How much of the average stays at each step; it then spans about 1 / (1 - decay) of them."""
    every: int = Field(1, ge=1)
    """Follow the weights after every so many updates."""
    hand_over: bool = True
    """Validate and hand over the average in place of the weights. Without it the weights are, and
    `burnish average RUN --ema` makes a model of the average."""


class CheckpointConfig(Config):
    """The `checkpoint` section of a recipe."""

    every_steps: int | None = Field(None, ge=1)
    """Save after this many updates. Without it: at every evaluation. The end and Ctrl-C always save."""
    keep: int = Field(2, ge=1)
    """How many of the newest checkpoints stay on disk; the best one stays beside them."""
    sharded: bool = False
    """With several processes: each writes a part of the tensors, to a folder that all share, and none holds all of them
    for it. Any number of processes can resume from the files."""
    ema: EmaConfig | None = None
    """Also keep an average of the weights, such as `{decay: 0.99}`."""
