"""What one rank for all sites leaves of a budget: one rank more for some of them, from the last layer down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from transformers import PreTrainedModel

from burnish.adapters.base import MethodConfig
from burnish.core.errors import UserError
from burnish.plan.sizes import Size, parameters_of, parts_of, with_value

PATTERN = "rank_pattern"
_LAYER = re.compile(r"(?P<stack>.+?)\.(?P<number>\d+)\.")


def with_remainder(size: Size, budget: int, model: PreTrainedModel) -> tuple[MethodConfig, int] | None:
    """The configuration whose sites partly get one rank more, and what it trains, counted by building it.

    Whole layers come first, the last ones first, where the task's own features are; then single sites of the next
    layer that still fit. None where the method has no `rank_pattern`, the recipe sets one, or not even its smallest
    size fits.

    Args:
        size: What sizes the method.
        budget: What it may cost.
        model: The model; its shapes are enough.
    """
    fields = type(size.config).model_fields
    if PATTERN not in fields or getattr(size.config, PATTERN) or budget < size.cost(size.least):
        return None
    value = min((budget - size.fixed) // size.each, size.most)
    lower = size.at(value)
    steps = _steps(size, value, model)
    chosen = _choose(steps, budget - size.cost(value))
    pattern = dict.fromkeys(_keys(chosen, steps), value + 1)
    changed = with_value(lower, PATTERN, pattern) if pattern else lower
    try:
        return (changed, parameters_of(changed, model)) if changed is not None else None
    except UserError:
        return None


def _steps(size: Size, value: int, model: PreTrainedModel) -> dict[str, int]:
    """What one more costs at each site, in the order of the model."""
    try:
        costs = [
            {p.site.name: sum(n.numel() for n in p.adapter.parameters()) for p in parts_of(size.at(v), model).placed}
            for v in (value, value + 1)
        ]
    except (UserError, AssertionError):  # the next size is refused
        return {}
    return {name: costs[1][name] - cost for name, cost in costs[0].items() if costs[1].get(name, cost) > cost}


def _choose(steps: Mapping[str, int], rest: int) -> list[str]:
    layers: dict[str, list[str]] = {}
    for name in steps:
        layers.setdefault(_layer_of(name), []).append(name)
    chosen: list[str] = []
    for names in reversed(list(layers.values())):
        cost = sum(steps[name] for name in names)
        if cost > rest:
            for name in sorted(names, key=lambda n: -steps[n]):
                if steps[name] <= rest:
                    chosen.append(name)
                    rest -= steps[name]
            break
        chosen += names
        rest -= cost
    return chosen


def _keys(chosen: Sequence[str], steps: Mapping[str, int]) -> list[str]:
    """As few keys as say it: one expression for whole layers of a stack, and names for single sites."""
    taken, stacks, single = set(chosen), dict[str, list[str]](), list[str]()
    for layer in dict.fromkeys(_layer_of(name) for name in chosen):
        inside = [name for name in steps if _layer_of(name) == layer]
        found = _LAYER.match(layer + ".")
        if found and taken.issuperset(inside):
            stacks.setdefault(found["stack"], []).append(found["number"])
        else:
            single += [name for name in inside if name in taken]
    whole = [f"re:^{re.escape(stack)}\\.({'|'.join(sorted(numbers, key=int))})\\." for stack, numbers in stacks.items()]
    return whole + single


def _layer_of(name: str) -> str:
    found = _LAYER.match(name)
    return f"{found['stack']}.{found['number']}" if found else name
