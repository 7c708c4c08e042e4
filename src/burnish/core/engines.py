"""The names of what carries a run over several processes, and what each can move to the host's memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

EngineName = Literal["none", "ddp", "fsdp2", "zero1", "zero2", "zero3"]
OffloadName = Literal["none", "optimizer", "parameters"]

OFFLOADS: Mapping[EngineName, tuple[OffloadName, ...]] = {
    "none": ("none",),
    "ddp": ("none",),
    "fsdp2": ("none",),
    "zero1": ("none", "optimizer"),
    "zero2": ("none", "optimizer"),
    "zero3": ("none", "optimizer", "parameters"),
}
"""What each engine can move to the host's memory."""

PARTING: tuple[EngineName, ...] = ("fsdp2", "zero3")
"""Engines whose processes hold shares of the weights, out of mapped files."""


def able(offload: OffloadName) -> str:
    """The engines that can move something to the host's memory, for a message."""
    return ", ".join(f"`{name}`" for name, kinds in OFFLOADS.items() if offload in kinds)
