"""The memory of a recipe on this machine: what its tensors take (`plan.footprint`), and the process besides."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from burnish.core.engines import PARTING
from burnish.core.machine import memory
from burnish.forecast.sketch import Sketch
from burnish.forecast.trace import footprint_of
from burnish.models.fetch import fetch
from burnish.models.forward import PACK_MULTIPLE
from burnish.models.load import converted_bytes
from burnish.ops.machine import cached_products, keeps_memory
from burnish.plan.engines import Engine
from burnish.plan.footprint import Footprint
from burnish.plan.memory import GPU_OVERHEAD, MIB, MemoryPlan, Overhead, memory_plan
from burnish.train.config import RunConfig

COMPUTING = 60 * MIB
"""Pages of libraries that are first touched when a model is loaded and computes: measured, docs/planning.md."""

GROWTH = {torch.float32: 1.30, torch.bfloat16: 1.08, torch.float16: 1.30}
"""What glibc's heap holds for each byte of living tensors, by the format of the products: measured, docs/planning.md.
The products of fp32 take workspaces that come and go between the tensors which stay, and leave more holes."""


PREPARED = round(0.65 * MIB)
"""What oneDNN and the layer above it keep for a bf16 product of one shape, whatever the shape: measured, likewise."""


def overhead_here(sketch: Sketch, start: int | None = None) -> Overhead:
    """What a process here takes besides its tensors: what it holds now, and what loading and computing will add.

    Args:
        sketch: The recipe.
        start: What such a process holds before it loads a model; what this one holds now if None.
    """
    if sketch.device != "cpu":
        return Overhead(GPU_OVERHEAD)
    config, precision = sketch.config.model, sketch.precision
    folder = fetch(config, weights=False).folder
    files = converted_bytes(folder, precision.base)
    # what is quantised was mapped from a file whose other tensors, where they need no conversion, keep it mapped
    mapped = converted_bytes(folder, None) - files if config.quantization is not None else 0
    keeps = keeps_memory()
    growth = GROWTH[precision.compute] if keeps else 1.0
    return Overhead(
        (start if start is not None else resident()) + mapped,
        COMPUTING,
        files,
        growth,
        keeps,
        product=PREPARED if precision.compute != torch.float32 else 0,
        most_products=cached_products(),
        lengths=sketch.updates().sizes(PACK_MULTIPLE["cpu"]),
    )


def of_several(overhead: Overhead, whole: Footprint, sketch: Sketch, engine: Engine) -> Overhead:
    """What one of several processes takes besides its tensors: where weights are shared out, they lie in mapped files.

    Args:
        overhead: Of a process alone.
        whole: What an undivided run holds.
        sketch: The recipe.
        engine: How it is divided.
    """
    if engine.name not in PARTING or sketch.device != "cpu" or sketch.config.model.quantization is not None:
        return overhead
    return replace(overhead, files=0, mapped=whole.weights, growth=1.0, keeps=False)  # as `return_memory` has it


def engine_of(config: RunConfig, processes: int) -> Engine:
    """How a recipe is divided among so many processes."""
    section = config.distributed
    return Engine(section.engine, processes, section.offload, section.half)


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
        overhead = overhead_here(sketch)
    return memory_plan(footprint_of(sketch), overhead, engine)


def limit_here(device: str, processes: int = 1) -> int:
    """Bytes that a run can have: of the first GPU, or of this machine or its container.

    Args:
        device: ``cpu`` or ``cuda``.
        processes: How many share this machine's memory; each has a GPU of its own.
    """
    if device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return memory().total // processes
