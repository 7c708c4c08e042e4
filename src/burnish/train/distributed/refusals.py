"""What an engine cannot carry, said before any process starts: one table from engine to setting, cause and fix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from burnish.adapters.registry import METHODS
from burnish.core.engines import EngineName
from burnish.core.errors import UserError
from burnish.train.config import RunConfig


@dataclass(frozen=True)
class Refusal:
    """One thing that an engine cannot carry.

    Attributes:
        applies: Whether a recipe asks for it.
        where: The setting.
        why: What goes wrong.
        fix: What does it instead.
    """

    applies: Callable[[RunConfig], bool]
    where: str
    why: str
    fix: str


def _observing(config: RunConfig) -> bool:
    """Whether a method looks at weights and gradients beside the loss."""
    return any(METHODS[a.method].terms or METHODS[a.method].observe for a in config.adapters)


DDP = "use `distributed.engine=ddp`, which carries it"

TASKS = Refusal(
    lambda config: bool(config.data.tasks),
    "data: task",
    "rows of one task reach weights that those of another do not, and processes would wait for each other's gradients",
    DDP,
)
REGULARIZERS = Refusal(
    lambda config: bool(config.regularizers),
    "regularizers",
    "they read whole weights or a second model beside the passes, and no process has those whole at that time",
    DDP,
)
OBSERVING = Refusal(
    _observing,
    "adapter.method",
    "this method looks at whole weights and gradients after each update, and no process has them",
    DDP,
)
FP16 = Refusal(
    lambda config: config.train.precision == "fp16",
    "train.precision",
    "loss scaling looks for overflows in whole gradients, which no process has",
    "use `train.precision=bf16` or `fp32`, or `distributed.engine=ddp`",
)
INT8 = Refusal(
    lambda config: config.train.precision == "int8",
    "train.precision",
    "matrices that multiply in 8 bits are rounded from whole ones, and the engine may hold shares of them",
    "use `train.precision=bf16`, or `distributed.engine=ddp`",
)
EIGHT_BIT = Refusal(
    lambda config: config.memory.optimizer != "adamw",
    "memory.optimizer",
    "8-bit moments are scaled in blocks of a whole tensor, and the engine cuts tensors elsewhere",
    "use `memory.optimizer=adamw`, whose moments lie in shares here, or `distributed.engine=ddp`",
)
EMA = Refusal(
    lambda config: config.checkpoint.ema is not None,
    "checkpoint.ema",
    "DeepSpeed owns the trained weights, and averages in their place would not reach its shares",
    "use `distributed.engine=ddp` or `fsdp2`, or `burnish average` after the training",
)
QUANTIZED = Refusal(
    lambda config: config.model.quantization is not None,
    "model.quantization",
    "a weight of few bits cannot be cut: its constants belong to the whole of it",
    "use `distributed.engine=ddp`, `zero1`, `zero2` or `fsdp2`, which keep such weights whole in every process",
)
ACTIVATIONS = Refusal(
    lambda config: config.memory.activation_offload,
    "memory.activation_offload",
    "weights that are gathered for a layer alone would be moved to the host with its activations",
    "use `train.gradient_checkpointing=true`",
)
OFFLOAD = Refusal(
    lambda config: (
        config.distributed.offload != "none"
        and config.distributed.offload_folder is None
        and not torch.cuda.is_available()
    ),
    "distributed.offload",
    "there is no GPU here, so everything is in the host's memory already",
    "use `distributed.offload=none`, or name a `distributed.offload_folder` on a disk",
)
GATHERED = Refusal(
    lambda config: config.distributed.param_dtype != "fp32" and config.train.precision != "bf16",
    "distributed.param_dtype",
    "weights that are gathered in bf16 have to be computed with in bf16",
    "use `train.precision=bf16`, or `distributed.param_dtype=fp32`",
)

SHARED = (TASKS, REGULARIZERS, OBSERVING, FP16, INT8, EIGHT_BIT, OFFLOAD)
REFUSALS: dict[EngineName, tuple[Refusal, ...]] = {
    "none": (),
    "ddp": (),
    "fsdp2": (*SHARED, ACTIVATIONS, GATHERED),
    "zero1": (*SHARED, EMA),
    "zero2": (*SHARED, EMA),
    "zero3": (*SHARED, EMA, QUANTIZED, ACTIVATIONS),
}
"""What each engine refuses."""

LIBRARIES: dict[EngineName, str] = {"zero1": "deepspeed", "zero2": "deepspeed", "zero3": "deepspeed"}
"""What an engine needs beside PyTorch and `accelerate`."""


def refuse(config: RunConfig, processes: int) -> None:
    """Refuse a recipe that its engine cannot carry, on so many processes.

    Args:
        config: The recipe.
        processes: How many there are to be in all.

    Raises:
        UserError: The engine is not installed, there are more processes than rows in an update, or the engine cannot
            carry a setting.
    """
    engine = config.distributed.engine
    library = LIBRARIES.get(engine)
    if library and find_spec(library) is None:
        raise UserError(
            f"`{engine}` is carried by the library {library}, which is not installed",
            where="distributed.engine",
            fix="pip install 'burnish[distributed]', or use `distributed.engine=fsdp2`",
        )
    if processes > config.train.batch_size:
        raise UserError(
            f"{processes} processes cannot share {config.train.batch_size} rows of an update: some would have none",
            where="train.batch_size",
            fix=f"raise it to {processes} at least, or start fewer processes",
        )
    for refusal in REFUSALS[engine]:
        if refusal.applies(config):
            raise UserError(f"`{engine}` cannot carry this: {refusal.why}", where=refusal.where, fix=refusal.fix)


def refuse_several_processes(config: RunConfig, what: str) -> None:
    """Refuse a recipe with an engine where many runs are made one after the other, each on one process.

    Args:
        config: The recipe.
        what: What makes the runs.

    Raises:
        UserError: The recipe names an engine.
    """
    if config.distributed.engine != "none":
        raise UserError(
            f"{what} makes its runs on one process each, and the recipe is carried by `{config.distributed.engine}`",
            where="distributed.engine",
            fix="leave it out with `distributed.engine=none`; the result does not depend on it",
        )
