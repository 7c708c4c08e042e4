"""What makes a run fit: changes that keep the rows of an update, each with the memory that it saves and what it costs.

Each is tried on the recipe itself and traced again, none is a rule of thumb about memory. The price in time is one: of
recomputing, the share of a forward pass among the products of an update; of the others, what `docs/planning.md` names.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from burnish.adapters.registry import METHODS
from burnish.core.engines import OFFLOADS
from burnish.core.errors import UserError
from burnish.data.batches import MICRO_BATCH_TOKENS
from burnish.forecast.scoring import pass_tokens
from burnish.forecast.sketch import Sketch, sketch_of
from burnish.forecast.trace import footprint_of
from burnish.plan.engines import Engine
from burnish.plan.memory import MemoryPlan, Overhead, memory_plan
from burnish.train.config import RunConfig

MOST = 3
"""Changes that are shown."""

Settings = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """Something that takes less memory.

    Attributes:
        settings: Recipe settings by section.
        engine: How the run is divided, if that changes.
        slower: Share of time that it costs.
        same: Whether the result of the training stays the same, up to rounding.
        why: What it does.
        data: Whether the rows become others, so that they are read again.
    """

    settings: Settings
    slower: float
    why: str
    same: bool = True
    engine: Engine | None = None
    data: bool = False

    @property
    def words(self) -> str:
        """The settings as the command line takes them."""
        parts = [f"{a}.{b}={_written(value)}" for a, inner in self.settings.items() for b, value in inner.items()]
        if self.engine is not None:
            parts.append(f"--engine {self.engine.name} --offload {self.engine.offload}")
        return " ".join(parts)


def together(changes: Sequence[Change]) -> Change:
    """Several changes as one; of two that set the same, the later holds."""
    kept = [c for i, c in enumerate(changes) if not any(_same_place(c, later) for later in changes[i + 1 :])]
    settings: Settings = {}
    for change in kept:
        for section, values in change.settings.items():
            settings[section] = {**settings.get(section, {}), **values}
    return Change(
        settings,
        math.prod(1 + c.slower for c in kept) - 1,
        "; ".join(c.why for c in kept),
        all(c.same for c in kept),
        next((c.engine for c in kept if c.engine is not None), None),
        any(c.data for c in kept),
    )


def _same_place(one: Change, other: Change) -> bool:
    return any(one.settings.get(section, {}).keys() & values.keys() for section, values in other.settings.items())


@dataclass(frozen=True)
class Fix:
    """A change and the memory of the run under it."""

    change: Change
    plan: MemoryPlan
    saved: int

    def to_json(self) -> dict[str, Any]:
        """For `plan.json`."""
        one = self.change
        return {"change": one.words, "why": one.why, "same_result": one.same, "slower": one.slower,
                "saved_bytes": self.saved, "peak_bytes": self.plan.peak}  # fmt: skip


def changed(config: RunConfig, settings: Settings) -> RunConfig:
    """The recipe with other settings, checked as a whole.

    Raises:
        UserError: They contradict it.
    """
    values = {name: getattr(config, name).model_copy(update=inner) for name, inner in settings.items()}
    return config.model_copy(update=values)


def fixes(sketch: Sketch, plan: MemoryPlan, overhead: Overhead, memory: int) -> list[Fix]:
    """The cheapest changes under which a run fits; one that alone is not enough is joined by the next.

    Args:
        sketch: The run.
        plan: Its memory as it is.
        overhead: Of its process.
        memory: What there is.
    """
    measure = _Measure(sketch, plan, overhead)
    found: list[Fix] = []
    short: list[Change] = []
    for change in sorted(_changes(sketch, plan, memory, measure), key=lambda c: (c.data, not c.same, c.slower)):
        fix = measure(change)
        if fix is None or fix.saved <= 0:
            continue
        if fix.plan.fits(memory):
            found.append(fix)
        else:
            short.append(change)
    found += _joined(short, measure, memory, MOST - len(found))
    distinct = {fix.change.words: fix for fix in found}
    return sorted(distinct.values(), key=lambda f: (f.change.data, f.change.slower))[:MOST]


class _Measure:
    """Traces a change, each once."""

    def __init__(self, sketch: Sketch, plan: MemoryPlan, overhead: Overhead) -> None:
        self.sketch, self.plan, self.overhead = sketch, plan, overhead
        self._known: dict[str, Fix | None] = {}

    def __call__(self, change: Change) -> Fix | None:
        if change.words not in self._known:
            self._known[change.words] = self._traced(change)
        return self._known[change.words]

    def _traced(self, change: Change) -> Fix | None:
        config = changed(self.sketch.config, change.settings)
        try:
            sketch = sketch_of(config) if change.data else self.sketch.with_config(config)
            plan = memory_plan(footprint_of(sketch), self.overhead, change.engine or self.plan.engine)
        except UserError:  # it does not suit this method or model
            return None
        return Fix(change, plan, self.plan.peak - plan.peak)


def _joined(short: Sequence[Change], measure: _Measure, memory: int, wanted: int) -> Iterator[Fix]:
    """Changes that suffice together, the cheapest first; what is not needed after all is left out again."""
    for start in range(min(max(0, wanted), len(short))):
        chosen: list[Change] = []
        for change in short[start:]:
            chosen.append(change)
            if _fits(chosen, measure, memory):
                break
        else:
            return
        for change in tuple(chosen[:-1]):
            fewer = [c for c in chosen if c is not change]
            chosen = fewer if _fits(fewer, measure, memory) else chosen
        fix = measure(together(chosen))
        if fix is not None:
            yield fix


def _fits(changes: Sequence[Change], measure: _Measure, memory: int) -> bool:
    fix = measure(together(changes))
    return fix is not None and fix.plan.fits(memory)


def _changes(
    sketch: Sketch, plan: MemoryPlan, memory: int, measure: Callable[[Change], Fix | None]
) -> Iterator[Change]:
    config = sketch.config
    trains_base = any(METHODS[adapter.method].format == "model" for adapter in config.adapters)
    forward = 1 / 3 if trains_base else 1 / 2  # of a frozen base the backward pass makes one product for each map
    yield from _smaller(sketch, memory, measure)
    if config.train.gradient_checkpointing is False:
        why = "keep what products made, and make the rest again in the backward pass"
        yield Change({"train": {"gradient_checkpointing": "selective"}}, 0.05, why)
    if config.train.gradient_checkpointing is not True:
        why = "make activations again in the backward pass"
        yield Change({"train": {"gradient_checkpointing": True}}, forward, why)
    if config.memory.optimizer == "adamw":
        yield Change({"memory": {"optimizer": "adamw_8bit"}}, 0.02, "moments in 8 bits", same=False)
    if config.model.quantization is None and not trains_base:
        given = type(config.model).model_validate({"path": "x", "quantization": "nf4"}).quantization
        yield Change({"model": {"quantization": given}}, 0.3, "the frozen base in 4 bits (QLoRA)", same=False)
    if "optimizer" in OFFLOADS[plan.engine.name] and plan.engine.offload == "none":
        moved = replace(plan.engine, offload="optimizer")
        yield Change({}, 0.2, "moments in the host's memory", engine=moved)
    longest = int(sketch.prepared.train.lengths.max())
    passes = pass_tokens(sketch, sketch.shapes())
    if passes // 4 >= longest:
        yield Change({"evaluate": {"batch_tokens": passes // 4}}, 0.01, "smaller passes while rows are scored")
    if longest > 128:
        data = config.data.model_copy(
            update={"render": config.data.render.model_copy(update={"max_length": longest // 2})}
        )
        yield Change({"data": {"render": data.render}}, -0.3, "cut rows", same=False, data=True)


def _smaller(sketch: Sketch, memory: int, measure: Callable[[Change], Fix | None]) -> Iterator[Change]:
    """The largest of the smaller micro-batches that suffices; else the smallest. Its rows are those of the update."""
    default = MICRO_BATCH_TOKENS.get(sketch.device, MICRO_BATCH_TOKENS["cuda"])
    tokens = sketch.updates().heaviest()["input_ids"].numel()
    longest = int(sketch.prepared.train.lengths.max())
    size = min(tokens, sketch.config.batches.micro_batch_tokens or default)
    halvings, last = 0, None
    while size // 2 >= longest:
        size, halvings = size // 2, halvings + 1
        why = "smaller micro-batches, more of them in each update"
        settings: Settings = {"batches": {"micro_batch_tokens": size}}
        if sketch.config.train.gradient_accumulation_steps:
            settings["train"] = {"gradient_accumulation_steps": None}
        last = Change(settings, 0.03 * halvings, why)
        fix = measure(last)
        if fix is not None and fix.plan.fits(memory):
            break
    if last is not None:
        yield last


def _written(value: Any) -> str:
    if hasattr(value, "max_length"):
        return f"(max_length) {value.max_length}"
    if hasattr(value, "kind"):
        return str(value.kind)
    return str(value).lower() if isinstance(value, bool) else "null" if value is None else str(value)
