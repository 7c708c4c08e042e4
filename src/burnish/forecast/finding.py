"""What there is to say before a model is loaded: that it will not fit, and what would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from burnish.core.findings import Finding
from burnish.core.processes import processes_here, world_size
from burnish.data.prepare import Prepared
from burnish.forecast.fixes import Fix, fixes
from burnish.forecast.memory import engine_of, limit_here, of_several, overhead_here
from burnish.forecast.sketch import Sketch, sketched
from burnish.forecast.trace import footprint_of
from burnish.plan.memory import GIB, MemoryPlan, Overhead, memory_plan
from burnish.train.config import RunConfig
from burnish.train.distributed.shares import Share

FAR = 1.25
"""A prediction above this multiple of what there is refuses the run: the kernel would end it, and maybe others."""


@dataclass
class Foresight:
    """Called by a run between its data and its weights: plans the memory of a process and says what is wrong with it.

    Attributes:
        plan: What goes into `plan.json`.
    """

    plan: dict[str, Any] = field(default_factory=dict)

    def __call__(self, config: RunConfig, prepared: Prepared) -> list[Finding]:
        """The findings; nothing that goes wrong in a plan keeps a run from starting."""
        try:
            return self._planned(config, prepared)
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            self.plan = {"unknown": said}
            return []

    def _planned(self, config: RunConfig, prepared: Prepared) -> list[Finding]:
        engine = engine_of(config, world_size())
        sketch = replace(sketched(config, prepared), share=Share(0, engine.processes))
        whole = footprint_of(sketch)  # before the process is looked at, since tracing takes memory too
        overhead = overhead_here(sketch)
        overhead = of_several(overhead, whole, sketch, engine)
        plan = memory_plan(whole, overhead, engine)
        limit = limit_here(sketch.device, processes_here())
        self.plan = {"memory": {**plan.to_json(), "limit_bytes": limit, "device": sketch.device}}
        finding = excess(sketch, plan, overhead, limit)
        return [finding] if finding else []


def excess(sketch: Sketch, plan: MemoryPlan, overhead: Overhead, limit: int) -> Finding | None:
    """The finding for a run that does not fit; None for one that does."""
    if plan.fits(limit):
        return None
    ways = fixes(sketch, plan, overhead, limit)
    refused = sketch.config.memory.on_excess == "stop" or plan.peak > FAR * limit
    return Finding(
        severity="stop" if refused else "warning",
        code="plan.does-not-fit",
        what=f"this run needs {plan.peak / GIB:.1f} GiB in its phase `{plan.highest.name}`, and there are "
        f"{limit / GIB:.1f} GiB",
        where="memory",
        why="A process that takes more than there is is ended by the system, in the middle of its work.",
        fix=said(ways) or "use a smaller model, a shorter `data.render.max_length`, or a machine with more memory",
        evidence={"peak_bytes": plan.peak, "limit_bytes": limit, "fixes": [fix.to_json() for fix in ways]},
    )


def said(ways: Sequence[Fix]) -> str:
    """The changes in one line."""
    return "; or ".join(f"`{w.change.words}` ({w.plan.peak / GIB:.1f} GiB, {w.change.slower:+.0%} time)" for w in ways)
