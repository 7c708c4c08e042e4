"""The situation of a recipe: rows, task, model, and the predicted memory of methods against what there is."""

from __future__ import annotations

from burnish.adapters.registry import METHODS, MethodConfig
from burnish.forecast.memory import limit_here, overhead_here
from burnish.forecast.sketch import Sketch, sketch_of
from burnish.forecast.trace import footprint_of
from burnish.ops.machine import default_device
from burnish.plan.cards import card_of
from burnish.plan.memory import GPU_OVERHEAD, ROOM, Overhead, memory_plan
from burnish.plan.rules import FULL, LORA, Situation
from burnish.train.config import RunConfig

PLANNED = (LORA, FULL)
"""Methods whose memory is predicted: the leanest of those that train in every layer, and the one that takes most."""


def situation_of(
    config: RunConfig,
    *,
    card: str | None = None,
    tasks: int | None = None,
    latency: bool = False,
    stability: bool = False,
) -> Situation:
    """Look at a recipe's rows and shapes; no weight is read.

    Args:
        config: The recipe.
        card: A GPU by name; this machine without one.
        tasks: How many tasks share the base; by default those that the recipe's sources name.
        latency: Whether what a forward pass takes counts.
        stability: Whether it counts that every run comes out alike.

    Raises:
        UserError: Recipe, data, model or card are refused.
    """
    chosen = card_of(card) if card else None
    device = "cuda" if chosen else default_device().type
    sketch = sketch_of(config, device)
    limit = chosen.memory if chosen else limit_here(device)
    return Situation(
        rows=len(sketch.prepared.train),
        task=config.task.kind,
        parameters=sum(p.numel() for p in sketch.shapes().parameters()),
        updates=len(sketch.updates()),
        peaks={name: peak for name in PLANNED if (peak := _peak(sketch, name)) is not None},
        limit=int(limit * ROOM),
        place=f"{chosen.name}, {chosen.gib:g} GiB" if chosen else "this machine",
        tasks=tasks or max(1, len(config.data.tasks)),
        latency=latency,
        stability=stability,
        quantized=config.model.quantization is not None,
    )


def _peak(sketch: Sketch, method: str) -> int | None:
    """Predicted peak of the recipe with another method; None where that cannot be planned."""
    config = sketch.config
    own = next((one for one in config.adapters if one.method == method), None)
    adapter: MethodConfig = own or METHODS[method].config(method=method)
    try:
        changed = sketch.with_config(config.model_copy(update={"adapter": adapter, "stages": ()}))
        whole = footprint_of(changed)
        overhead = Overhead(GPU_OVERHEAD) if sketch.device == "cuda" else overhead_here(changed)
    except Exception:  # as for a run: a plan that cannot be made stops nothing
        return None
    return memory_plan(whole, overhead).peak
