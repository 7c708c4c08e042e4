"""Data parallel: every process holds the whole model and its own rows; gradients are summed before the update.

As in PyTorch's DistributedDataParallel (Li et al., 2020) gradients travel in buckets, and a bucket leaves while the
last backward pass still makes the gradients of the next one. Different from it, what is reduced is the sum, since a
loss here has been divided by the units of all processes already; a parameter that only some processes' rows reach is
summed over those, and one that no row reached keeps no gradient, so that AdamW leaves it alone as on one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from burnish.train.distributed.engine import Engine, Named, Whole, broadcast_
from burnish.train.distributed.group import Group

BUCKET = 25 << 20
"""Bytes of a bucket: long enough for the bandwidth, short enough that the first one leaves early."""


class Buckets:
    """The gradients of one update on their way.

    Every process sends its buckets in the same order, whatever order its gradients come in: a bucket waits for those
    before it.

    Args:
        parameters: What is trained now, in the same order in every process.
        dtype: Format of the sums on their way.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], dtype: torch.dtype = torch.float32) -> None:
        self.buckets, self.dtype = buckets(parameters), dtype
        self.place = {id(p): number for number, bucket in enumerate(self.buckets) for p in bucket}
        self.missing = [len(bucket) for bucket in self.buckets]
        self.going: list[tuple[Tensor, dist.Work]] = []

    def came(self, parameter: nn.Parameter) -> None:
        """Take note that a gradient is complete; send what can be sent."""
        self.missing[self.place[id(parameter)]] -= 1
        while len(self.going) < len(self.buckets) and not self.missing[len(self.going)]:
            self._send()

    def finish(self) -> None:
        """Send what is left, and put the sums in the place of the gradients."""
        while len(self.going) < len(self.buckets):
            self._send()
        for bucket, (flat, handle) in zip(self.buckets, self.going, strict=True):
            handle.wait()
            *sums, reached = flat.split([p.numel() for p in bucket] + [len(bucket)])
            for parameter, summed, count in zip(bucket, sums, reached.tolist(), strict=True):
                _put(parameter, summed if count else None)

    def _send(self) -> None:
        bucket = self.buckets[len(self.going)]
        # behind the gradients: how many processes have one
        reached = torch.tensor([float(p.grad is not None) for p in bucket], dtype=bucket[0].dtype)
        parts = [torch.zeros_like(p).view(-1) if p.grad is None else p.grad.reshape(-1) for p in bucket]
        flat = torch.cat([*parts, reached.to(bucket[0].device, non_blocking=True)]).to(self.dtype)
        self.going.append((flat, dist.all_reduce(flat, async_op=True)))


class DataParallel(Engine):
    """Gradients summed over processes that hold all weights each.

    Args:
        group: The processes.
        dtype: Format in which gradients are summed.
    """

    def __init__(self, group: Group, dtype: torch.dtype = torch.float32) -> None:
        super().__init__(group)
        self.dtype = dtype
        self._under_way: Buckets | None = None
        self._left = 0

    def prepare(self, whole: Whole, trainable: Named) -> None:
        super().prepare(whole, trainable)
        if self.group.size > 1:
            broadcast_([parameter for _, parameter in trainable])

    def begin(self, trainable: Named, passes: int) -> None:
        trained = [p for _, p in trainable if p.requires_grad]
        self._under_way = Buckets(trained, self.dtype) if self.group.size > 1 else None
        self._left = passes

    def backward(self, loss: Tensor) -> None:
        self._left -= 1
        under_way = self._under_way
        if self._left or under_way is None:
            loss.backward()
            return
        came: Callable[[nn.Parameter], None] = under_way.came
        held = [p for bucket in under_way.buckets for p in bucket]
        handles = [p.register_post_accumulate_grad_hook(came) for p in held]
        try:
            loss.backward()
        finally:
            for handle in handles:
                handle.remove()

    def finish(self, trainable: Named) -> None:
        """Wait for the sums."""
        if self._under_way is not None:
            self._under_way.finish()
        self._under_way = None


def buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters in groups of at most ``BUCKET`` bytes of one format, the last ones first: backward's order."""
    found: list[list[nn.Parameter]] = []
    size = 0
    for parameter in reversed(parameters):
        if not found or size + parameter.nbytes > BUCKET or found[-1][0].dtype != parameter.dtype:
            found.append([])
            size = 0
        found[-1].append(parameter)
        size += parameter.nbytes
    return found


@torch.no_grad()
def _put(parameter: nn.Parameter, summed: Tensor | None) -> None:
    if summed is None:
        parameter.grad = None
    elif parameter.grad is None:
        parameter.grad = summed.view_as(parameter).to(parameter.dtype, copy=True)
    else:
        parameter.grad.copy_(summed.view_as(parameter))
