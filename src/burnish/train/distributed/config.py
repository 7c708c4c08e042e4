"""The `distributed` section of a recipe: which engine carries the run over its processes."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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
    offload_folder: Path | None = None
    """Offload to mapped files in this folder, on a fast disk of each machine, in place of the host's memory alone: the
    kernel keeps in memory what it has room for. Also where there is no GPU."""
    reduce_dtype: Literal["fp32", "bf16"] = "fp32"
    """Format in which gradients are summed over the processes; `bf16` sends half, and rounds them to 8 bits."""
    param_dtype: Literal["fp32", "bf16"] = "fp32"
    """Format in which trained weights are gathered (`fsdp2`, with `train.precision=bf16`). Their shares stay in fp32;
    `bf16` sends half of full tuning's weights and holds half of a gathered layer."""
    timeout_minutes: int = Field(120, ge=1)
    """How long one process waits for another, such as for the first one to read the data."""

    @property
    def half(self) -> frozenset[str]:
        """What travels in half the bytes, in the planner's words."""
        named = {"gradients": self.reduce_dtype, "weights": self.param_dtype}
        return frozenset(what for what, dtype in named.items() if dtype == "bf16")

    @model_validator(mode="after")
    def _engine_can(self) -> DistributedConfig:
        if self.offload not in OFFLOADS[self.engine]:
            raise ValueError(f"`{self.engine}` cannot offload `{self.offload}`; {able(self.offload)} can")
        if self.offload_folder and self.offload == "none":
            raise ValueError("`offload_folder` says where to; name what is offloaded, such as `offload=optimizer`")
        if self.param_dtype != "fp32" and self.engine != "fsdp2":
            raise ValueError(f"`{self.engine}` cannot gather weights in another format; `fsdp2` can")
        if self.reduce_dtype != "fp32" and self.engine == "none":
            raise ValueError("one process sums no gradients over others; leave `reduce_dtype` out")
        return self
