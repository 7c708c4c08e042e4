"""From what a run holds to the peak of each of its phases, and whether that fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.plan.engines import Engine, Share, share_of
from burnish.plan.footprint import Footprint

MIB, GIB = 1 << 20, 1 << 30

GPU_OVERHEAD = 700 * MIB
"""Of a process on a GPU: its context, the libraries for products, and what the allocator cannot use. An assumption."""

ROOM = 0.97
"""Share of a card's or a machine's memory that a run may fill."""


@dataclass(frozen=True)
class Overhead:
    """Memory of a process besides its tensors.

    Attributes:
        start: Interpreter, libraries and compiled kernels, before a model is loaded.
        computing: What the first products add: pages of libraries that are first used then, threads, prepared code.
        files: Bytes of the files that weights are read from and converted, mapped while they are.
        growth: What the allocator holds for each byte that lives, holes included.
        keeps: Whether the process gives nothing back, so that what a later phase needs comes on top where the holes of
            an earlier one are too small.
        mapped: Bytes of the files that weights are shared out of. Each process has their pages among its own, and the
            machine holds them once, for as long as it has room.
        product: Bytes of code and workspace that are kept for a product of half-precision numbers of one shape.
        most_products: How many of them are kept at most.
        lengths: How many numbers of rows a product comes in: micro-batches that differ in size.
    """

    start: int
    computing: int = 0
    files: int = 0
    growth: float = 1.0
    keeps: bool = False
    mapped: int = 0
    product: int = 0
    most_products: int = 0
    lengths: int = 1

    def prepared(self, products: int) -> int:
        """Bytes that are kept for products of so many kinds, each with every number of rows."""
        return self.product * min(self.most_products, products * self.lengths)


@dataclass(frozen=True)
class Phase:
    """A part of a run and the most that it holds, in bytes by what holds it."""

    name: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        """Their sum."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class MemoryPlan:
    """What one device holds in each phase.

    Attributes:
        phases: In the order of the run.
        host: Bytes that all devices together keep in the host's memory besides.
        engine: How the run is divided.
        mapped: Bytes of each phase that are pages of files, which the kernel takes back when it needs room.
    """

    phases: tuple[Phase, ...]
    host: int
    engine: Engine
    mapped: int = 0

    @property
    def highest(self) -> Phase:
        """The phase that decides."""
        return max(self.phases, key=lambda phase: phase.total)

    @property
    def peak(self) -> int:
        """Bytes of the highest phase."""
        return self.highest.total

    def fits(self, memory: int) -> bool:
        """Whether a device of so many bytes suffices."""
        return self.peak - self.mapped <= ROOM * memory

    def to_json(self) -> dict[str, Any]:
        """For `plan.json`."""
        phases = [{"name": p.name, "bytes": p.total, "parts": dict(p.parts)} for p in self.phases]
        engine = {"name": self.engine.name, "processes": self.engine.processes, "offload": self.engine.offload}
        return {"peak_bytes": self.peak, "highest": self.highest.name, "phases": phases, "host_bytes": self.host,
                "engine": engine, **({"mapped_bytes": self.mapped} if self.mapped else {})}  # fmt: skip


def memory_plan(whole: Footprint, overhead: Overhead, engine: Engine | None = None) -> MemoryPlan:
    """The phases of a run.

    Args:
        whole: What an undivided run holds.
        overhead: Of one process.
        engine: How it is divided; not at all if None.
    """
    engine = engine or Engine()
    share = share_of(whole, engine)
    return MemoryPlan(tuple(_phases(share, overhead)), share.host, engine, overhead.mapped)


def _phases(share: Share, overhead: Overhead) -> list[Phase]:
    one = share.device
    framework = {"framework": overhead.start + overhead.computing}
    base = {"weights": one.weights, "adapters": one.adapters}
    original = {"held of the original": one.held} if one.held else {}
    framework |= {"mapped weights": overhead.mapped} if overhead.mapped else {}
    there = {**framework, **base, **original, "gathered layers": share.gathered, "optimizer": one.optimizer}
    there |= {"matrices in 8 bits": one.rounded} if one.rounded else {}
    prepared = overhead.prepared(one.products)
    there |= {"prepared products": prepared} if prepared else {}
    living = {"activations": one.activations, "gradients and work": one.working}
    holes = {"allocator": round((overhead.growth - 1) * sum(living.values()))}
    kept = {"kept from evaluating": one.evaluation if overhead.keeps else 0}
    return [
        Phase("load", {**framework, **base, "mapped files": overhead.files}),
        Phase("forward and backward", {**there, **living, **holes, **kept}),
        Phase("step", {**there, "gradients": one.gradients, **kept}),
        Phase("checks of the first updates", {**there, "sums in float64": one.fingerprint}),
        Phase("evaluate", {**there, "activations": one.evaluation}),
        Phase("save", dict(there)),
    ]
