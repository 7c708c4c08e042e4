"""What carries a run: how passes, gradients, the update and whole tensors come about, on one process or on many."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from burnish.checkpoint.optimizer import load_state_tensors, state_tensors
from burnish.core.errors import TrainingStopped
from burnish.train.distributed.group import Group
from burnish.train.distributed.shares import Share

T = TypeVar("T")
Named = Sequence[tuple[str, nn.Parameter]]
Keeps = Callable[[str], bool]
"""Says of a parameter's name whether this process keeps the tensors that are gathered for it."""


def always(name: str) -> bool:
    """Keep everything."""
    return True


class Whole(nn.Module):
    """Everything that a pass may read, as one module: whatever is computed inside its forward finds its weights.

    An engine that keeps weights in shares gathers those of a layer when the layer is called, and those outside of the
    layers (embeddings, the last norm, heads) when this module is.

    Args:
        model: The model with its adapters.
        classifier: A head beside it.
        mapped: Whether the model's own weights lie in files that are mapped.
    """

    def __init__(self, model: nn.Module, classifier: nn.Module | None = None, *, mapped: bool = False) -> None:
        super().__init__()
        self.model, self.classifier, self.mapped = model, classifier, mapped

    def forward(self, work: Callable[[], T]) -> T:
        """Compute."""
        return work()


class Engine:
    """One process: nothing beside what PyTorch does.

    Args:
        group: The processes.

    Attributes:
        sharded: Whether the processes compute every pass together, for they hold shares of something.
        parts_weights: Whether weights lie in shares, so that no process has to hold all of them.
        rehearses: Whether the heaviest micro-batch is tried before the first update.
        foresees: Whether the optimiser that the loop holds is the one that moves the weights, tensor by tensor.
    """

    sharded = False
    parts_weights = False
    foresees = True
    rehearses = True

    def __init__(self, group: Group | None = None) -> None:
        self.group = group or Group()
        self.shapes: dict[str, torch.Size] = {}

    @property
    def share(self) -> Share:
        """This process's part of the rows."""
        return Share(self.group.rank, self.group.size)

    def prepare(self, whole: Whole, trainable: Named) -> None:
        """Take the model over, before an optimiser is made.

        Args:
            whole: The model and its head.
            trainable: What is trained.
        """
        self.shapes = {name: parameter.shape for name, parameter in trainable}

    def optimizing(self, optimizer: torch.optim.Optimizer, trainable: Named) -> torch.optim.Optimizer:
        """Take the optimiser over; the loop sets the rates of the one that is given back."""
        return optimizer

    def enter_stage(self, names: frozenset[str]) -> None:
        """Take note that these parameters are trained from here on."""

    def run(self, work: Callable[[], T]) -> T:
        """Compute something that calls the model."""
        return work()

    def look(self, work: Callable[[], T]) -> T:
        """Compute something that calls the model as often as it likes, without a backward pass."""
        return work()

    def begin(self, trainable: Named, passes: int) -> None:
        """Take note that an update begins, of so many backward passes in this process."""

    def backward(self, loss: Tensor) -> None:
        """Gradients of this process's share of a loss."""
        loss.backward()

    def finish(self, trainable: Named) -> None:
        """Make the gradients those of all processes; behind the last backward pass of the rows of an update."""

    def clip(self, trainable: Named, most: float | None) -> float:
        """Scale the gradients down to a global L2 norm; returns what it was."""
        return float(nn.utils.clip_grad_norm_([p for _, p in trainable], most or float("inf")))

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Apply the gradients."""
        optimizer.step()

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop the gradients."""
        optimizer.zero_grad(set_to_none=True)

    def whole(self, tensor: Tensor) -> Tensor:
        """A weight, or a tensor shaped and shared like one, in one piece. All processes ask together."""
        return tensor.detach()

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        """The gradient of a weight in one piece. All processes ask together."""
        return parameter.grad

    def local(self, tensor: Tensor) -> Tensor:
        """What of a tensor lies in this process."""
        return tensor

    def over_shares(self, sums: Tensor) -> Tensor:
        """Sums over what lies in this process, made sums over whole tensors."""
        return self.group.add_(sums) if self.sharded else sums

    @torch.no_grad()
    def put(self, target: Tensor, value: Tensor) -> None:
        """Write a whole value into a weight, or into what is shaped and shared like one."""
        target.copy_(value)

    def moments(self, optimizer: torch.optim.Optimizer, trainable: Named, keeps: Keeps = always) -> dict[str, Tensor]:
        """The optimiser's state by parameter, whole; on the meta device what this process does not keep."""
        return {full: kept(full, tensor, keeps) for full, tensor in state_tensors(optimizer, trainable).items()}

    def load_moments(self, optimizer: torch.optim.Optimizer, trainable: Named, tensors: Mapping[str, Tensor]) -> None:
        """Put ``moments`` back."""
        load_state_tensors(optimizer, trainable, tensors)

    def release(self) -> None:
        """Give every process the whole model back, as plain weights; nothing is trained after it."""

    def inventory(self, tensors: Mapping[str, Tensor]) -> None:
        """Refuse to write weights that are not whole.

        Raises:
            TrainingStopped: A tensor has not the shape that it had before the engine took it over, as the empty ones
                that ZeRO-3 leaves in each process.
        """
        odd = [n for n, t in tensors.items() if n in self.shapes and tuple(t.shape) != tuple(self.shapes[n])]
        missing = [n for n in self.shapes if n not in tensors]
        if odd or missing:
            name = (odd or missing)[0]
            is_now = f"has the shape {tuple(tensors[name].shape)}" if odd else "is missing"
            raise TrainingStopped(
                f"{len(odd) + len(missing)} of {len(self.shapes)} trained tensors are not whole, and are not written",
                where=f"{name} {is_now}, and should have {tuple(self.shapes[name])}",
                fix="this is a fault of the engine; the checkpoints before this one are whole",
            )


def kept(full: str, tensor: Tensor, keeps: Keeps) -> Tensor:
    """A parameter, or the moment ``key:parameter`` of one; its shape alone where this process does not keep it."""
    return tensor if keeps(full.partition(":")[2] or full) else tensor.to("meta")


def broadcast_(tensors: Sequence[Tensor]) -> None:
    """Give every process the main one's values, so that all begin alike.

    A tensor that has them is not written to: the pages of a mapped file would become memory of this process.
    """
    with torch.no_grad():
        for tensor in tensors:
            values = tensor.detach().clone(memory_format=torch.contiguous_format)
            torch.distributed.broadcast(values, src=0)
            if not torch.equal(values, tensor):
                tensor.copy_(values)
