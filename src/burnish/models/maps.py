"""What a linear layer of a model computes, hooks included, for operations that compute it in another way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from burnish.models.eight_bits import eight_bits_of
from burnish.models.quantize import is_quantized, matrix_of
from burnish.ops.projections import Projection

Resolve = Callable[[nn.Module], Projection | None]
"""From a linear layer to what it computes, or None where that is more than a map with a low-rank update."""


def plain(host: nn.Module) -> Projection | None:
    """A linear layer without hooks, as it is."""
    return None if hooked(host) else map_of(host)


def map_of(host: nn.Module) -> Projection | None:
    """The map of a linear layer, hooks left aside; one with weights of 4 bits where it computes as its input comes."""
    if type(host) is nn.Linear:
        return Projection(host.weight, host.bias, eight=eight_bits_of(host))
    if is_quantized(host) and host.compute_dtype is None:
        return Projection(host.weight, host.bias, decode=partial(matrix_of, host))  # type: ignore[arg-type]
    return None


def hooked(module: nn.Module) -> int:
    """How many forward and backward hooks hang on a module; a forward of its own counts as one."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return sum(len(h) for h in hooks) + ("forward" in module.__dict__)


Chain = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Beside:
    """What hooks do at a module that a fused layer computes itself, position by position.

    Attributes:
        kwargs: Arguments that they add to its call.
        residual: What becomes of its second argument.
        normed: Functions of what a norm returns, each added to what the norm is given, one after the other.
        parallel: Functions of its first argument, each added to what it returns.
        behind: What becomes of what it returns, behind all of these.
    """

    kwargs: Mapping[str, Any] = field(default_factory=dict)
    residual: Chain | None = None
    normed: tuple[Chain, ...] = ()
    parallel: tuple[Chain, ...] = ()
    behind: Chain | None = None

    def within(self, *names: str) -> bool:
        """Whether there is nothing else than these."""
        return not any(value for name, value in vars(self).items() if name not in names)


_NOTHING = Beside()


def beside(module: nn.Module) -> Beside | None:
    """What the hooks of a module do, where it can be told; None where they do something else."""
    count = hooked(module)
    if not count:
        return _NOTHING
    for child in module.children():
        if len(getattr(child, "handles", ())) == count:
            return child.beside(module)  # type: ignore[operator]
    return None


def beside_within(module: nn.Module, *names: str) -> bool:
    """Whether hooks on a module do nothing, or nothing else than these (fields of ``Beside``)."""
    found = beside(module)
    return found is not None and found.within(*names)


def maps_of(layer: nn.Module, names: Sequence[str], resolve: Resolve) -> dict[str, Projection] | None:
    """What the linear layers of these names compute, or None where one of them is more than a map."""
    found = {name: resolve(layer.get_submodule(name)) for name in names}
    return {n: p for n, p in found.items() if p is not None} if all(found.values()) else None
