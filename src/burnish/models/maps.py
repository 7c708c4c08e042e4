"""What a linear layer of a model computes, hooks included, for operations that compute it in another way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from burnish.ops.projections import Projection

Resolve = Callable[[nn.Module], Projection | None]
"""From a linear layer to what it computes, or None where that is more than a map with a low-rank update."""


def plain(host: nn.Module) -> Projection | None:
    """A linear layer without hooks, as it is."""
    if type(host) is not nn.Linear or hooked(host):
        return None
    return Projection(host.weight, host.bias)


def hooked(module: nn.Module) -> int:
    """How many forward and backward hooks hang on a module."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return sum(len(h) for h in hooks)


def added(module: nn.Module) -> dict[str, Any] | None:
    """The arguments that a module's hooks add to a call, where they do nothing else; None where they do more."""
    count = hooked(module)
    if not count:
        return {}
    for child in module.children():
        if len(getattr(child, "handles", ())) == count:
            return child.added(module)  # type: ignore[operator]
    return None


def maps_of(layer: nn.Module, names: Sequence[str], resolve: Resolve) -> dict[str, Projection] | None:
    """What the linear layers of these names compute, or None where one of them is more than a map."""
    found = {name: resolve(layer.get_submodule(name)) for name in names}
    return {n: p for n, p in found.items() if p is not None} if all(found.values()) else None
