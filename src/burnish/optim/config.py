"""Settings of the optimiser and its schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from burnish.core.config import Config

OptimizerName = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]
ScheduleName = Literal["cosine", "linear", "constant"]

DEFAULT_WARMUP_RATIO = 0.03


class OptimConfig(Config):
    """AdamW with decoupled weight decay (Loshchilov and Hutter, 2019), a schedule and gradient clipping."""

    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Peak learning rate. Without it the default of the method, which the run prints with its reason."""
    weight_decay: float = Field(0.0, ge=0, allow_inf_nan=False)
    """Decoupled weight decay, on matrices only: never on biases, norms and other vectors."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's running means of the gradient and of its square."""
    eps: float = Field(1e-8, gt=0, allow_inf_nan=False)
    """Added to the root of the second moment, against division by zero."""
    schedule: ScheduleName = "cosine"
    """How the learning rate falls after the warm-up: along a half cosine, along a line, or not at all."""
    warmup_ratio: float | None = Field(None, ge=0, lt=1)
    """Share of the updates over which the learning rate rises to its peak; 0.03 without this and `warmup_steps`."""
    warmup_steps: int | None = Field(None, ge=0)
    """Number of warm-up updates, in place of `warmup_ratio`."""
    min_learning_rate_ratio: float = Field(0.0, ge=0, le=1)
    """The schedule ends at this share of the peak."""
    max_grad_norm: float | None = Field(1.0, gt=0, allow_inf_nan=False)
    """Gradients are scaled down to this L2 norm over all parameters; null switches clipping off."""

    @model_validator(mode="after")
    def _consistent(self) -> OptimConfig:
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError("warmup_ratio and warmup_steps contradict each other; give one of them")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas must lie in [0, 1)")
        return self
