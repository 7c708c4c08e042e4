"""The memory of a recipe on this machine: what the tensors take (`plan.footprint`), and what the process takes besides."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from burnish.core.machine import memory
from burnish.forecast.sketch import Sketch, footprint_of
from burnish.models.config import ModelConfig
from burnish.models.fetch import fetch
from burnish.models.load import weight_bytes
from burnish.plan.engines import Engine
from burnish.plan.memory import GPU_OVERHEAD, MIB, MemoryPlan, Overhead, memory_plan

COMPUTING = {torch.float32: 60 * MIB, torch.bfloat16: 60 * MIB, torch.float16: 60 * MIB}
"""By the format of the products: pages of libraries that are first touched then, threads, and prepared products."""


def overhead_here(config: ModelConfig, compute: torch.dtype, device: str) -> Overhead:
    """What this process takes besides its tensors: what it holds now, and what loading and computing will add."""
    if device != "cpu":
        return Overhead(GPU_OVERHEAD)
    return Overhead(resident(), COMPUTING[compute], weight_bytes(fetch(config, weights=False).folder))


def resident() -> int:
    """Bytes of this process in memory now."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError):
        return 600 * MIB
    return pages * os.sysconf("SC_PAGE_SIZE")


def plan_memory(sketch: Sketch, engine: Engine | None = None, overhead: Overhead | None = None) -> MemoryPlan:
    """The memory of each phase of a recipe's run."""
    if overhead is None:
        overhead = overhead_here(sketch.config.model, sketch.precision.compute, sketch.device)
    return memory_plan(footprint_of(sketch), overhead, engine)


def limit_here(device: str) -> int:
    """Bytes that a run can have: of the first GPU, or of this machine or its container."""
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return memory().total
