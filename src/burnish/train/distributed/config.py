"""The `distributed` section of a recipe: which engine carries the run over its processes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from burnish.core.config import Config

EngineName = Literal["none", "ddp", "fsdp2", "zero1", "zero2", "zero3"]
OffloadName = Literal["none", "optimizer", "parameters"]

OFFLOADS: dict[EngineName, tuple[OffloadName, ...]] = {
    "none": ("none",),
    "ddp": ("none",),
    "fsdp2": ("none",),
    "zero1": ("none", "optimizer"),
    "zero2": ("none", "optimizer"),
    "zero3": ("none", "optimizer", "parameters"),
}
"""What each engine can move to the host's memory."""


class DistributedConfig(Config):
    """How a run is carried by several processes, one for each GPU. The result does not depend on it."""

    engine: EngineName = "none"
    """`none`: one process. `ddp`: every process holds the whole model, and gradients are summed. `zero1`, `zero2`
    (DeepSpeed): the optimiser's moments, and the gradients too, lie in shares. `zero3` (DeepSpeed) and `fsdp2`
    (PyTorch): the weights too, the frozen ones included."""
    offload: OffloadName = "none"
    """What waits in the host's memory while it is not needed: `optimizer` the moments and their update (ZeRO),
    `parameters` the weights too (`zero3`). For GPUs; slower, and the result stays the same."""
    timeout_minutes: int = Field(120, ge=1)
    """How long one process waits for another, such as for the first one to read the data."""

    @model_validator(mode="after")
    def _engine_can(self) -> DistributedConfig:
        if self.offload not in OFFLOADS[self.engine]:
            can = ", ".join(f"`{name}`" for name, kinds in OFFLOADS.items() if self.offload in kinds)
            raise ValueError(f"`{self.engine}` cannot offload `{self.offload}`; {can} can")
        return self
