"""What a method costs in parameters, counted from the adapters that it builds, and the one setting that sizes it.

Nothing here knows a method by name: a configuration is built on the model's shapes and its new parameters are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

import torch
from pydantic import ValidationError
from torch import nn
from transformers import PreTrainedModel

from burnish.adapters.base import METHODS, MethodConfig, Parts
from burnish.core.errors import UserError
from burnish.models.forward import positions_of

T = TypeVar("T")

STARTS = ("init", "init_weights", "initialization", "init_text", "init_data")
"""Settings that say what values new parameters start with. They change no shape, and some need the model's weights."""

PREFERRED = ("rank", "init_rank", "width", "bottleneck", "length", "num_virtual_tokens")
"""Settings that are tried first for what sizes a method; then every other whole number."""

IN_ROWS = "num_virtual_tokens"
"""The setting of methods that lengthen every row: a quarter of the model's positions is the most they get."""

COMPANIONS = {"rank": "target_rank"}
"""Settings that a recipe leaves to their default keep its proportion to another: the rank that is left in the end."""


def parts_of(config: MethodConfig, model: PreTrainedModel) -> Parts:
    """The adapters that a configuration brings into a model, built on its shapes alone.

    Raises:
        UserError: The method refuses the model or the configuration, or cannot be built without weights.
    """
    counted = plainly(config)
    build = METHODS[config.method].build
    try:
        return on_shapes(model, lambda: build(model, counted, 0))
    except (RuntimeError, NotImplementedError) as error:  # what PyTorch says of a tensor without numbers
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UserError(
            f"the parameters of `{config.method}` cannot be counted without the model's weights: {said}",
            where="adapter",
            fix="leave this method out of the plan, or set its size by hand",
        ) from error


def on_shapes(model: PreTrainedModel, build: Callable[[], T]) -> T:
    """What is built on a model's shapes, with zeros for its weights only where building it computes with them.

    DoRA, for one, takes the norms of the weights. Everything else is built without a number in memory.

    Args:
        model: The model; its shapes are enough.
        build: Called once, and a second time where PyTorch refuses to compute without numbers.

    Raises:
        RuntimeError: It needs more than zeros.
    """
    try:
        return build()
    except (RuntimeError, NotImplementedError):
        pass
    with zeros_for_weights(model):
        return build()


def plainly(config: MethodConfig) -> MethodConfig:
    """The configuration with the default for every setting that says what values new parameters start with."""
    fields = type(config).model_fields
    plain = {name: fields[name].default for name in STARTS if name in fields and not fields[name].is_required()}
    return config.model_copy(update=plain)


@contextmanager
def zeros_for_weights(model: PreTrainedModel) -> Iterator[None]:
    """Zeros in the place of weights without numbers: views of one zero, which take no memory whatever their shape."""
    kept = [(module, name, p) for module in model.modules() for name, p in module._parameters.items() if p is not None]
    zeros = {
        id(p): nn.Parameter(torch.zeros((), dtype=p.dtype).expand(p.shape), requires_grad=False)
        for _, _, p in kept
        if p.is_meta
    }
    for module, name, parameter in kept:
        module._parameters[name] = zeros.get(id(parameter), parameter)
    try:
        yield
    finally:
        for module, name, parameter in kept:
            module._parameters[name] = parameter


def parameters_of(config: MethodConfig, model: PreTrainedModel) -> int:
    """How many numbers a method would train on this model, its weights tied or shared counted once.

    Args:
        config: The method's configuration.
        model: The model; its shapes are enough, so it may lie on the meta device.

    Raises:
        UserError: As ``parts_of``.
    """
    return count(parts_of(config, model), model)


def count(parts: Parts, model: PreTrainedModel) -> int:
    """The numbers that these parts train."""
    new = {id(p): p.numel() for item in parts.placed for p in item.adapter.parameters()}
    base = {id(p): p.numel() for name in parts.base for p in (model.get_parameter(name),)}
    return sum((new | base).values())


@dataclass(frozen=True)
class Size:
    """What a method costs as a function of the one setting that sizes it: ``cost(v) = fixed + each * v``.

    Attributes:
        config: The configuration whose other settings stay as they are.
        setting: Its name.
        fixed: Parameters that do not depend on it, such as a bottleneck's last bias.
        each: Parameters that one more costs.
        least: Smallest value.
        most: Largest value of interest: the first that uses the whole budget up, or the last that is not refused.
        capped: Whether the method takes no more on this model.
    """

    config: MethodConfig
    setting: str
    fixed: int
    each: int
    least: int
    most: int
    capped: bool = False

    @property
    def method(self) -> str:
        """Its name in the table of methods."""
        return self.config.method

    def cost(self, value: int) -> int:
        """Parameters at this value."""
        return self.fixed + self.each * value

    def nearest(self, budget: float) -> int:
        """The value whose cost is nearest to a budget, within what is possible."""
        return min(max(round((budget - self.fixed) / self.each), self.least), self.most)

    def at(self, value: int) -> MethodConfig:
        """The configuration with this value."""
        changed = with_value(self.config, self.setting, value)
        assert changed is not None
        return changed


def size_of(config: MethodConfig, model: PreTrainedModel, budget: int, longest: int | None = None) -> Size | None:
    """What sizes a method on this model, found by building it; None where no single setting does.

    Two sizes give the slope, a third one holds it to be a straight line. Up to the budget, ``most`` is found by
    bisection over what the method refuses, such as a rank above the smaller side of a matrix.

    Args:
        config: The method's configuration.
        model: The model; its shapes are enough.
        budget: No size that costs more is of interest.
        longest: Most virtual tokens of methods that lengthen every row, where the model has positions for more.

    Raises:
        UserError: The method fits this model at no size.
    """
    first: UserError | None = None
    for name in _whole_numbers(type(config)):
        try:
            found = _measured(config, name, model, budget, longest)
        except UserError as error:
            first = first or error
            continue
        if found is not None:
            return found
    if first is not None:
        parameters_of(config, model)  # a method without a size may still fit; what it says if not is the better reason
    return None


def _measured(config: MethodConfig, name: str, model: PreTrainedModel, budget: int, longest: int | None) -> Size | None:
    least = next((v for v in (1, 2, 4, 8) if with_value(config, name, v) is not None), None)
    if least is None:
        return None
    tried = [with_value(config, name, value) for value in (least, 2 * least, 3 * least)]
    costs = [parameters_of(c, model) for c in tried if c is not None]
    if len(costs) < 3 or costs[1] <= costs[0] or costs[2] - costs[1] != costs[1] - costs[0]:
        return None
    if (costs[1] - costs[0]) % least:
        return None
    each = (costs[1] - costs[0]) // least
    fixed = costs[0] - each * least
    wanted = max(least, -((fixed - budget) // each))  # the first value that costs the budget or more
    allowed = min(wanted, METHODS[config.method].largest or wanted)
    if name == IN_ROWS:
        allowed = min(allowed, _room(model, longest))
    most = _most(config, name, model, least, max(least, allowed))
    return Size(config, name, fixed, each, least, most, capped=most < wanted)


def _most(config: MethodConfig, name: str, model: PreTrainedModel, taken: int, wanted: int) -> int:
    """The largest value up to ``wanted`` that is not refused."""
    if _fits(config, name, wanted, model):
        return wanted
    refused = wanted
    while refused - taken > 1:
        middle = (taken + refused) // 2
        taken, refused = (middle, refused) if _fits(config, name, middle, model) else (taken, middle)
    return taken


def _room(model: PreTrainedModel, longest: int | None) -> int:
    """Virtual tokens that leave the rows most of the model's positions."""
    positions = positions_of(model.config)
    limits = [n for n in (longest, positions // 4 if positions else None) if n is not None]
    return min(limits, default=1 << 30)


def _fits(config: MethodConfig, name: str, value: int, model: PreTrainedModel) -> bool:
    changed = with_value(config, name, value)
    try:
        return changed is not None and parameters_of(changed, model) > 0
    except UserError:
        return False


def with_value(config: MethodConfig, name: str, value: Any) -> MethodConfig | None:
    """The configuration with one setting changed, and its companion with it; None where it refuses the value."""
    fields, companion = type(config).model_fields, COMPANIONS.get(name, "")
    values = {**config.model_dump(exclude_unset=True), name: value}
    if companion in fields and companion not in values:
        values[companion] = max(1, value * fields[companion].default // fields[name].default)
    try:
        return type(config).model_validate(values)
    except (ValidationError, UserError):
        return None


def _whole_numbers(cls: type[MethodConfig]) -> list[str]:
    """Settings that are whole numbers, the likeliest to size a method first."""
    found = [
        name for name, field in cls.model_fields.items() if field.annotation is int or int in get_args(field.annotation)
    ]
    first = [name for name in PREFERRED if name in found]
    return first + [name for name in found if name not in first]
