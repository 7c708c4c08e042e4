"""The engines by name, and opening the one that a recipe names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from burnish.core.engines import EngineName
from burnish.core.errors import UserError
from burnish.core.processes import launched, world_size
from burnish.train.config import RunConfig
from burnish.train.distributed.config import DistributedConfig
from burnish.train.distributed.ddp import DataParallel
from burnish.train.distributed.engine import Engine
from burnish.train.distributed.fsdp2 import FullySharded
from burnish.train.distributed.group import Group, Processes
from burnish.train.distributed.refusals import refuse
from burnish.train.distributed.zero import Zero
from burnish.train.precision import DTYPES

MakeEngine = Callable[[Group, RunConfig], Engine]

ZERO: dict[EngineName, int] = {"zero1": 1, "zero2": 2, "zero3": 3}


def _zero(stage: int, group: Group, config: RunConfig) -> Engine:
    return Zero(group, stage, config.distributed, config.train.max_grad_norm)


ENGINES: dict[EngineName, MakeEngine] = {
    "none": lambda group, config: Engine(group),
    "ddp": lambda group, config: DataParallel(group, DTYPES[config.distributed.reduce_dtype]),
    **{name: partial(_zero, stage) for name, stage in ZERO.items()},
    "fsdp2": lambda group, config: FullySharded(group, config.distributed),
}
"""Makes an engine for the processes of a run."""


def open_engine(config: RunConfig) -> Engine:
    """Join the other processes of a run, and make its engine.

    Raises:
        UserError: The engine cannot carry the recipe, or this process was not started as one of several, or was and the
            recipe names no engine.
    """
    settings: DistributedConfig = config.distributed
    if settings.engine == "none":
        if world_size() > 1:
            raise UserError(
                f"{world_size()} processes were started, and the recipe is for one: each would train on all rows",
                where="distributed.engine",
                fix="name an engine, such as `distributed.engine=ddp`, or start one process",
            )
        return Engine()
    refuse(config, world_size())
    if not launched():
        raise UserError(
            f"the recipe is carried by `{settings.engine}`, and this process was not started as one of several",
            where="distributed.engine",
            fix="start them with `burnish launch RECIPE --processes N` (a run folder in the place of the recipe "
            "resumes it), or with `torchrun`",
        )
    return ENGINES[settings.engine](Processes(settings.timeout_minutes), config)
