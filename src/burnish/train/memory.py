"""The `memory` section of a recipe: what is traded for memory, without changing the rows of an update."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch
from torch import nn

from burnish.core.config import Config
from burnish.core.errors import UserError
from burnish.ops.offload import Offload
from burnish.optim.config import OptimizerName


class MemoryConfig(Config):
    """What is traded for memory."""

    optimizer: OptimizerName = "adamw"
    """How AdamW keeps its two moments: `adamw` in fp32, 8 bytes for each trained weight; `adamw_8bit` in 8 bits, 2
    bytes; `paged_adamw_8bit` also lets a GPU that runs full move them to the host. The last two need
    `bitsandbytes`."""
    activation_offload: bool = False
    """Let large activations wait for the backward pass in the host's memory. For GPUs; the gradients stay the same."""
    on_excess: Literal["warn", "stop"] = "warn"
    """What happens when the plan says that the run needs more memory than there is: `warn` says so and starts, unless
    it is more by a quarter; `stop` refuses it before the weights are loaded."""


def refuse_impossible_memory(config: MemoryConfig, device: torch.device) -> None:
    """Refuse what this device can't do.

    Raises:
        UserError: Activations are to be moved to the host, and the run computes there.
    """
    if config.activation_offload and device.type == "cpu":
        raise UserError(
            "activations cannot be moved to the host: this run computes on it",
            where="memory.activation_offload",
            fix="use `memory.activation_offload=false`; `train.gradient_checkpointing=true` saves memory here",
        )


def keeping(config: MemoryConfig, model: nn.Module) -> AbstractContextManager[object]:
    """The context of a forward pass that decides where its activations wait for the backward pass."""
    if not config.activation_offload:
        return nullcontext()
    return Offload([*model.parameters(), *model.buffers()])
