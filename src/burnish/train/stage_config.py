"""What a recipe says of one stage of training."""

from __future__ import annotations

from pydantic import Field, model_validator

from burnish.core.config import Config
from burnish.optim.config import OptimConfig, ScheduleName


class StageConfig(Config):
    """One of several stages of a run: what is trained in it, how long, and at which rate. All else is as in `train`."""

    name: str | None = Field(None, max_length=60)
    """What the stage is called; by default what it trains."""
    train: str | tuple[str, ...] = "all"
    """What is trained: `all`, entries of `adapter` by name or method (`lora`, `prompt`), `head` (that of the task), a
    part of a parameter's dotted name such as `layers.29`, or `re:PATTERN` searched for in full names; one or a list.
    All else stays as it is, and begins again where it was when a later stage trains it."""
    steps: int | None = Field(None, ge=1)
    """Updates of this stage."""
    num_epochs: float | None = Field(None, gt=0)
    """Its passes over the training rows, in place of `steps`."""
    learning_rate: float | None = Field(None, gt=0, allow_inf_nan=False)
    """Peak learning rate of this stage; by default that of `train`, or of the methods that are trained in it."""
    schedule: ScheduleName | None = None
    """How the learning rate falls after the stage's warm-up."""
    warmup_ratio: float | None = Field(None, ge=0, lt=1)
    """Share of the stage's updates over which the learning rate rises to its peak."""
    warmup_steps: int | None = Field(None, ge=0)
    """Number of the stage's warm-up updates, in place of `warmup_ratio`."""
    min_learning_rate_ratio: float | None = Field(None, ge=0, le=1)
    """The stage's schedule ends at this share of its peak."""

    @model_validator(mode="after")
    def _one_length(self) -> StageConfig:
        if (self.steps is None) == (self.num_epochs is None):
            raise ValueError("a stage needs either `steps` or `num_epochs`")
        if self.warmup_ratio is not None and self.warmup_steps is not None:
            raise ValueError("warmup_ratio and warmup_steps contradict each other; give one of them")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """What is trained, as a list."""
        return (self.train,) if isinstance(self.train, str) else self.train

    @property
    def label(self) -> str:
        """What the stage is called."""
        return self.name or ", ".join(self.targets)

    def over(self, base: OptimConfig) -> OptimConfig:
        """The settings of ``base`` with those that the stage gives."""
        given = self.model_dump(
            include={"learning_rate", "schedule", "warmup_ratio", "warmup_steps", "min_learning_rate_ratio"},
            exclude_none=True,
        )
        if "warmup_ratio" in given or "warmup_steps" in given:
            given = {"warmup_ratio": None, "warmup_steps": None, **given}
        return base.model_copy(update=given)
