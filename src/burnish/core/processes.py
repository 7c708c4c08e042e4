"""What the environment says of a process among several, as `torchrun` and `burnish launch` write it; and the others."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Protocol, TypeVar

T = TypeVar("T")

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Crew(Protocol):
    """The processes of a run, as `train.distributed.group.Group` has them, for what lies below it."""

    rank: int
    size: int

    def of_main(self, value: T) -> T: ...
    def collected(self, values: list[T]) -> list[T]: ...
    def on_main(self, action: Callable[[], T]) -> T | None: ...
    def together(self, action: Callable[[], T]) -> T: ...


def launched() -> bool:
    """Whether a launcher (`burnish launch`, `torchrun`, a script that sets the same) started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= os.environ.keys()


def world_size() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ["WORLD_SIZE"]) if launched() else 1


def is_main() -> bool:
    """Whether this is the process that speaks, known before any process group is open."""
    return not launched() or int(os.environ["RANK"]) == 0


def local_rank() -> int:
    """Number of this process on its machine, which is that of its GPU."""
    return int(os.environ.get("LOCAL_RANK", "0")) if launched() else 0


def processes_here() -> int:
    """How many of the launcher's processes run on this machine; 1 without one."""
    return int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ["WORLD_SIZE"]) if launched() else 1


def alone() -> dict[str, str]:
    """The environment without what makes a process one of several, for one that is started beside them."""
    return {name: value for name, value in os.environ.items() if name not in VARIABLES}
