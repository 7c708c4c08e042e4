"""Where DeepSpeed's ZeRO keeps what belongs to a parameter: flat shares, and the way from them to whole tensors.

Shapes: P processes; a group of parameters has N numbers together; each process holds a share [S] of each group.

Stages 1 and 2 lay the parameters of a group end to end, fill up to a multiple of P and cut the line into P shares, so
that a parameter may lie across a border. Stage 3 cuts every parameter into P pieces, the last ones filled up, and lays
the pieces of each process end to end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

Spread = Iterator[tuple[nn.Parameter, Tensor]]


class Flat(Protocol):
    """The layout of a stage; ``optimizer`` is DeepSpeed's around PyTorch's, ``i`` the number of a group."""

    def masters(self, optimizer: Any) -> list[Tensor]:
        """The shares of the weights that the update is made on, group by group."""

    def members(self, optimizer: Any, i: int) -> list[nn.Parameter]:
        """The parameters of a group, in the order in which they lie."""

    def gradients(self, optimizer: Any, i: int) -> Tensor:
        """[S] this process's share of a group's gradients."""

    def spread(self, optimizer: Any, i: int, share: Tensor) -> Spread:
        """Whole tensors, from the shares that all processes give."""

    def narrow(self, optimizer: Any, i: int, wholes: Sequence[Tensor]) -> Tensor:
        """[S] this process's share of whole tensors."""

    def link(self, optimizer: Any, i: int) -> None:
        """Let parameters see the memory of a share that was put elsewhere."""

    def norm(self, optimizer: Any) -> float:
        """L2 norm of the gradients of all groups, negative where it is not finite."""


class EndToEnd:
    """Stages 1 and 2."""

    def masters(self, optimizer: Any) -> list[Tensor]:
        return list(optimizer.single_partition_of_fp32_groups)

    def members(self, optimizer: Any, i: int) -> list[nn.Parameter]:
        return list(optimizer.round_robin_bit16_groups[i])

    def gradients(self, optimizer: Any, i: int) -> Tensor:
        master: Tensor = optimizer.single_partition_of_fp32_groups[i]
        if optimizer.cpu_offload and master.grad is not None:
            return master.grad
        return _filled([g.reshape(-1) for g in optimizer.averaged_gradients.get(i) or []], master)

    def spread(self, optimizer: Any, i: int, share: Tensor) -> Spread:
        line, begin = _rows(share).view(-1), 0
        for parameter in self.members(optimizer, i):
            yield parameter, line[begin : begin + parameter.numel()].view(parameter.shape).clone()
            begin += parameter.numel()

    def narrow(self, optimizer: Any, i: int, wholes: Sequence[Tensor]) -> Tensor:
        size = optimizer.single_partition_of_fp32_groups[i].numel()
        line = torch.cat([whole.reshape(-1).cpu() for whole in wholes])
        line = torch.nn.functional.pad(line, (0, size * dist.get_world_size() - len(line)))
        return line[size * dist.get_rank() :][:size].clone()

    def link(self, optimizer: Any, i: int) -> None:
        """The shares are copies of the parameters here."""

    def norm(self, optimizer: Any) -> float:
        return float(optimizer.scaled_global_norm())


class Pieces:
    """Stage 3."""

    def masters(self, optimizer: Any) -> list[Tensor]:
        return list(optimizer.fp32_partitioned_groups_flat)

    def members(self, optimizer: Any, i: int) -> list[nn.Parameter]:
        return list(optimizer.fp16_groups[i])

    def gradients(self, optimizer: Any, i: int) -> Tensor:
        master: Tensor = optimizer.fp32_partitioned_groups_flat[i]
        if optimizer.offload_optimizer and master.grad is not None:
            return master.grad
        return _filled([g.reshape(-1) for g in optimizer.averaged_gradients.get(i) or []], master)

    def spread(self, optimizer: Any, i: int, share: Tensor) -> Spread:
        rows, begin = _rows(share), 0
        for parameter in self.members(optimizer, i):
            size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]  # DeepSpeed's
            line = rows[:, begin : begin + size].reshape(-1)
            yield parameter, line[: parameter.ds_numel].view(parameter.ds_shape).clone()  # type: ignore[attr-defined]
            begin += size

    def narrow(self, optimizer: Any, i: int, wholes: Sequence[Tensor]) -> Tensor:
        world, rank = dist.get_world_size(), dist.get_rank()
        found = []
        for parameter, whole in zip(self.members(optimizer, i), wholes, strict=True):
            size = parameter.ds_tensor.ds_numel  # type: ignore[attr-defined]
            line = torch.nn.functional.pad(whole.reshape(-1).cpu(), (0, size * world - whole.numel()))
            found.append(line[size * rank :][:size])
        return _filled(found, optimizer.fp32_partitioned_groups_flat[i].cpu())

    def link(self, optimizer: Any, i: int) -> None:
        optimizer._unflatten_partitioned_parameters(i)

    def norm(self, optimizer: Any) -> float:
        norms = [float(norm) for norm in optimizer._get_norm_groups()]
        return -1.0 if any(n < 0 or n != n for n in norms) else sum(n * n for n in norms) ** 0.5


FLAT: dict[int, Flat] = {1: EndToEnd(), 2: EndToEnd(), 3: Pieces()}
"""Layouts by ZeRO's stage."""


def _rows(share: Tensor) -> Tensor:
    """[P, S] the shares of all processes."""
    own = share.detach().contiguous()
    rows = own.new_empty(dist.get_world_size(), own.numel())
    dist.all_gather_into_tensor(rows.view(-1), own.view(-1))
    return rows


def _filled(parts: Sequence[Tensor], like: Tensor) -> Tensor:
    """Parts end to end, filled up with zeros to the length of a share."""
    line = torch.cat([part.to(like.dtype) for part in parts]) if parts else like.new_zeros(0)
    return torch.nn.functional.pad(line, (0, like.numel() - len(line)))
