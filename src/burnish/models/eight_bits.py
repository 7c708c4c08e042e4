"""Which linear maps of a model multiply in 8 bits while they are trained around, and their rounded matrices.

Only maps of fused layers ask, and only in training mode: what is scored, sampled, checked and saved goes through the
matrices as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from torch import nn

from burnish.ops.eight_bits import EightBits


@dataclass
class _Rounded:
    """A rounded matrix, and of which weights it was made."""

    made_of: tuple[int, int]
    eight: EightBits


_ROUNDED: WeakKeyDictionary[nn.Module, _Rounded] = WeakKeyDictionary()


def round_maps(hosts: Iterable[nn.Module]) -> int:
    """Let these linear layers multiply in 8 bits in training mode; bytes that their rounded matrices take."""
    total = 0
    for host in hosts:
        _ROUNDED[host] = made = _rounded(host)
        total += made.eight.nbytes
    return total


def exact_maps(hosts: Iterable[nn.Module]) -> None:
    """Take that back."""
    for host in hosts:
        _ROUNDED.pop(host, None)


def eight_bits_of(host: nn.Module) -> EightBits | None:
    """The rounded matrix of a linear layer that multiplies in 8 bits now: in training, its weight frozen.

    A weight that has changed since is rounded anew: a stage may have trained it, or a merge.
    """
    found = _ROUNDED.get(host)
    if found is None or not host.training or host.weight.requires_grad:  # type: ignore[union-attr]
        return None
    if found.made_of != _version(host):
        _ROUNDED[host] = found = _rounded(host)
    return found.eight


def _rounded(host: nn.Module) -> _Rounded:
    return _Rounded(_version(host), EightBits.of(host.get_parameter("weight")))


def _version(host: nn.Module) -> tuple[int, int]:
    weight = host.get_parameter("weight")
    return id(weight), weight._version
