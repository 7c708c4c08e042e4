"""The `distributed` section of a recipe: which engine carries the run over its processes."""

from __future__ import annotations

from pydantic import Field, model_validator

from burnish.core.config import Config
from burnish.core.engines import OFFLOADS, EngineName, OffloadName, able


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
            raise ValueError(f"`{self.engine}` cannot offload `{self.offload}`; {able(self.offload)} can")
        return self
