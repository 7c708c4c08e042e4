"""All that `burnish plan` says of a recipe: memory, whether it fits and where, what makes it fit, and the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from burnish.core.config import apply_overrides, build
from burnish.core.errors import UserError
from burnish.forecast.fixes import Fix, fixes
from burnish.forecast.memory import engine_of, limit_here, of_several, overhead_here
from burnish.forecast.roofline import CardTime, card_times
from burnish.forecast.sketch import Sketch, blank, sketch_of
from burnish.forecast.trace import footprint_of
from burnish.ops.machine import default_device
from burnish.plan.cards import CARDS, Card, card_of
from burnish.plan.engines import Engine
from burnish.plan.footprint import Footprint
from burnish.plan.memory import GPU_OVERHEAD, MemoryPlan, Overhead, memory_plan
from burnish.plan.presets import preset, presets
from burnish.train.config import RunConfig, expand
from burnish.train.distributed.shares import Share


@dataclass(frozen=True)
class Outlook:
    """What a run will take.

    Attributes:
        name: What is planned.
        sketch: The recipe as the plan sees it.
        whole: What an undivided run holds.
        memory: Of one device, phase by phase.
        place: What it is planned for.
        limit: Its memory in bytes.
        fixes: What makes it fit; empty where it does.
        cards: Peak of the same run on a GPU, by card, with whether that suffices and its estimated time.
    """

    name: str
    sketch: Sketch
    whole: Footprint
    memory: MemoryPlan
    place: str
    limit: int
    fixes: Sequence[Fix] = ()
    cards: Sequence[CardTime] = field(default=())

    @property
    def fits(self) -> bool:
        """Whether the run fits where it is planned for."""
        return self.memory.fits(self.limit)

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "name": self.name,
            "place": self.place,
            "fits": self.fits,
            "limit_bytes": self.limit,
            "trained_parameters": self.whole.trained,
            "memory": self.memory.to_json(),
            "fixes": [fix.to_json() for fix in self.fixes],
            "cards": [one.to_json() for one in self.cards],
        }


def outlook(
    config: RunConfig,
    *,
    name: str = "",
    alone: bool = False,
    shape: str | None = None,
    card: str | None = None,
    engine: Engine | None = None,
) -> Outlook:
    """Plan a recipe.

    Args:
        config: The recipe.
        name: What to call it.
        alone: Whether it names a shape (`of_shape`), for which there is nothing to read.
        shape: A model whose shape takes the place of the recipe's.
        card: A GPU to plan for; this machine if None, but for a shape alone, which is planned for a GPU.
        engine: How the run is divided among devices; as the recipe says, on one device, if None.

    Raises:
        UserError: Recipe, data, model, card or shape are refused.
    """
    engine = engine or engine_of(config, 1)
    chosen = card_of(card) if card else None
    device = "cuda" if chosen or alone else default_device().type
    values = preset(shape) if shape else None
    sketch = blank(config, preset(config.model.path), device) if alone else sketch_of(config, device, values)
    sketch = replace(sketch, share=Share(0, engine.processes))
    whole = footprint_of(sketch)
    overhead = of_several(_overhead(sketch, shape is not None or alone), whole, sketch, engine)
    plan = memory_plan(whole, overhead, engine)
    place, limit = _place(chosen, device, alone, plan)
    ways = [] if plan.fits(limit) else fixes(sketch, plan, overhead, limit)
    on_card = plan if device == "cuda" else memory_plan(whole, Overhead(GPU_OVERHEAD), engine)
    times = card_times(sketch, whole, on_card, CARDS)
    return Outlook(shape or name or config.name, sketch, whole, plan, place, limit, ways, times)


def is_shape(name: str) -> bool:
    """Whether a name means a shape: it is known, and no file is called so."""
    return name in presets() and not Path(name).exists()


def of_shape(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The recipe of a model whose shape alone is known: LoRA on text, with overrides.

    Raises:
        UserError: A setting is wrong, or it is about a task whose rows would have to be read.
    """
    values = {"name": "plan", "model": name, "data": {"train": "rows.jsonl"}, "adapter": "lora"}
    config = build(RunConfig, apply_overrides(expand(values), overrides), where=name)
    if config.classifies or preset(name).is_encoder_decoder:
        raise UserError(
            "a shape alone is planned for causal text", where=name, fix="write a recipe and name the shape by `--shape`"
        )
    return config


def _overhead(sketch: Sketch, unread: bool) -> Overhead:
    if sketch.device == "cuda":
        return Overhead(GPU_OVERHEAD)
    found = overhead_here(sketch)
    return replace(found, files=0) if unread else found


def _place(card: Card | None, device: str, alone: bool, plan: MemoryPlan) -> tuple[str, int]:
    if card is not None:
        return f"{card.name}, {card.gib:g} GiB", card.memory
    if alone and default_device().type != "cuda":
        enough = next((c for c in CARDS if plan.fits(c.memory)), CARDS[-1])
        return f"{enough.name}, {enough.gib:g} GiB", enough.memory
    return ("this machine's GPU" if device == "cuda" else "this machine"), limit_here(device, plan.engine.processes)
