"""The processes of a run and what they tell each other: numbers, small objects, and who went wrong.

One process alone is a `Group`, whose methods give back what they are given. Several are a `Processes`, on the process
group that `accelerate` opens (NCCL between GPUs, gloo between processors).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

import numpy as np
import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from torch import Tensor

from burnish.core.errors import BurnishError, TrainingStopped, UserError
from burnish.core.processes import world_size
from burnish.ops.machine import default_device

T = TypeVar("T")
ERRORS: dict[str, type[BurnishError]] = {e.__name__: e for e in (BurnishError, UserError, TrainingStopped)}

Told = tuple[str, str, str, str]
"""An error as it is sent: its class, what, where and how to mend it."""


class Group:
    """One process alone: nothing is to be agreed on.

    Attributes:
        rank: Number of this process, from 0.
        size: How many there are.
    """

    rank, size = 0, 1

    @property
    def main(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def table(self, values: Sequence[float]) -> list[list[float]]:
        """The values of every process, a row for each."""
        return [list(values)]

    def sums(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, value by value."""
        return list(values)

    def added(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sum of an array over the processes."""
        return array

    def add_(self, tensor: Tensor) -> Tensor:
        """Replace a tensor by its sum over the processes."""
        return tensor

    def of_main(self, value: T) -> T:
        """The main process's value."""
        return value

    def collected(self, values: list[T]) -> list[T]:
        """The entries of all processes' lists, one behind the other."""
        return values

    def on_main(self, action: Callable[[], T]) -> T | None:
        """Let the main process do something; a refusal of it is raised in every process."""
        return action()

    def together(self, action: Callable[[], T]) -> T:
        """Let every process do something; what one of them refuses is raised in all."""
        return action()

    def main_first(self, action: Callable[[], T]) -> T:
        """Let every process do something, the main one before the others, which find what it left on the disk."""
        return action()


class Processes(Group):
    """Several processes, or one that works as if it were among several."""

    def __init__(self, timeout_minutes: int) -> None:
        self.device = default_device()
        if not dist.is_initialized():
            _open(self.device, timedelta(minutes=timeout_minutes))
        self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def table(self, values: Sequence[float]) -> list[list[float]]:
        own = torch.tensor(list(values), dtype=torch.float64, device=self.device)
        rows = own.new_empty(self.size, len(own))
        dist.all_gather_into_tensor(rows.view(-1), own)
        found: list[list[float]] = rows.tolist()
        return found

    def sums(self, values: Sequence[float]) -> list[float]:
        return [sum(column) for column in zip(*self.table(values), strict=True)]

    def added(self, array: NDArray[np.float64]) -> NDArray[np.float64]:
        tensor = torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        summed: NDArray[np.float64] = self.add_(tensor).cpu().numpy()
        return summed

    def add_(self, tensor: Tensor) -> Tensor:
        if tensor.numel():
            dist.all_reduce(tensor)
        return tensor

    def of_main(self, value: T) -> T:
        if self.size == 1:
            return value
        box = [value]
        broadcast_object_list(box, from_process=0)
        return box[0]

    def collected(self, values: list[T]) -> list[T]:
        gathered: list[T] = values if self.size == 1 else gather_object(values)
        return gathered

    def on_main(self, action: Callable[[], T]) -> T | None:
        result, refused = None, None
        if self.main:
            result, refused = self._tried(action)
        _raise(self.of_main(refused))
        return result

    def together(self, action: Callable[[], T]) -> T:
        result, refused = self._tried(action)
        _raise(next((told for told in self.collected([refused]) if told), None))
        return result  # type: ignore[return-value]  # None where it was refused, which is raised

    def _tried(self, action: Callable[[], T]) -> tuple[T | None, Told | None]:
        """The result, or what was refused in words that can be sent."""
        try:
            return action(), None
        except BurnishError as error:
            if self.size == 1:
                raise
            return None, (type(error).__name__, error.what, error.where, error.fix)

    def main_first(self, action: Callable[[], T]) -> T:
        result = self.on_main(action)
        return result if self.main else action()  # type: ignore[return-value]


def _raise(refused: Told | None) -> None:
    if refused:
        name, what, where, fix = refused
        raise ERRORS.get(name, BurnishError)(what, where=where, fix=fix)


def _open(device: torch.device, timeout: timedelta) -> None:
    """Join the process group that the launcher's environment names."""
    if world_size() > 1:
        PartialState(cpu=device.type == "cpu", timeout=timeout)
    if not dist.is_initialized():  # one process needs none, and `accelerate` then opens none; engines ask for one
        dist.init_process_group("gloo" if device.type == "cpu" else "cuda:nccl,cpu:gloo", timeout=timeout)


def close() -> None:
    """Leave the process group, where this process is in one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
