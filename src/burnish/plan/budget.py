"""A number of parameters, divided among methods: the rank, the width and the length that use it up."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import yaml
from transformers import PreTrainedModel

from burnish.adapters.base import METHODS, MethodConfig
from burnish.core.errors import UserError
from burnish.plan.remainder import with_remainder
from burnish.plan.sizes import IN_ROWS, Size, count, parameters_of, parts_of, size_of

TOLERANCE = 0.02
"""Share of the budget by which a plan may miss it."""

SHARES = {"lora": 60.0, "bottleneck": 30.0, "prompt": 10.0}
"""The division by default: most to what changes every matrix, least to what is read before the first layer."""

LONG_PROMPT = 64
"""Virtual tokens from which on a plan says what they cost."""

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "g": 10**9}
_BUDGET = re.compile(r"([0-9][0-9_,]*(?:\.[0-9]+)?)\s*([kmbg%]?)", re.IGNORECASE)


@dataclass(frozen=True)
class Line:
    """What one method gets.

    Attributes:
        config: Its configuration, with its size filled in.
        setting: The setting that sizes it; empty where none does.
        parameters: What it trains, counted from the adapters that it builds.
        sites: Where it acts.
        wanted: Share of the budget that it was to get.
        limited: Whether the method takes no more on this model.
        partly: Whether some of its sites have one more, so that the budget is met.
    """

    config: MethodConfig
    setting: str
    parameters: int
    sites: int
    wanted: float
    limited: bool = False
    partly: bool = False

    @property
    def value(self) -> int:
        """The size that was chosen."""
        return int(getattr(self.config, self.setting))

    @property
    def size(self) -> str:
        """Setting and value as people say it."""
        return f"{self.setting} {self.value:,}" + (f", {self.value + 1:,} in part" if self.partly else "")


class Budgeted:
    """A plan whose parameters, ``total``, are held against those that were asked for, ``budget``."""

    if TYPE_CHECKING:  # fields in one plan, sums in another

        @property
        def budget(self) -> int: ...
        @property
        def total(self) -> int: ...

    @property
    def error(self) -> float:
        """``total / budget - 1``."""
        return self.total / self.budget - 1

    @property
    def hit(self) -> bool:
        """Whether the budget is met within ``TOLERANCE``."""
        return abs(self.error) <= TOLERANCE

    @property
    def judged(self) -> str:
        """Parameters, how far they are off, and whether that is within ``TOLERANCE``, in words."""
        words = "within 2 % of the budget" if self.hit else "more than 2 % off the budget"
        return f"{self.total:,} parameters, {self.error:+.2%}: {words}"


@dataclass(frozen=True)
class Plan(Budgeted):
    """A budget, divided.

    Attributes:
        budget: Parameters asked for.
        model: Parameters of the model.
        lines: The methods in their order.
        notes: What a reader must know.
    """

    budget: int
    model: int
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        """Parameters of all methods."""
        return sum(line.parameters for line in self.lines)

    def adapter(self) -> dict[str, Any] | list[dict[str, Any]]:
        """The `adapter` section of a recipe: a mapping for one method, a list for several."""
        found = [{"method": line.config.method, **_plain(line.config)} for line in self.lines]
        return found[0] if len(found) == 1 else found

    def yaml(self) -> str:
        """The same as text to paste."""
        return yaml.safe_dump({"adapter": self.adapter()}, sort_keys=False, allow_unicode=True, width=110)

    def to_json(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "budget": self.budget,
            "total": self.total,
            "error": self.error,
            "hit": self.hit,
            "model_parameters": self.model,
            "methods": [
                {
                    "method": line.config.method,
                    "setting": line.setting,
                    "value": line.value,
                    "sites": line.sites,
                    "parameters": line.parameters,
                    "share": line.parameters / self.total,
                    "wanted_share": line.wanted,
                    "limited": line.limited,
                    "partly_one_more": line.partly,
                }
                for line in self.lines
            ],
            "adapter": self.adapter(),
            "notes": list(self.notes),
        }


def read_budget(text: str, model_parameters: int) -> int:
    """A number of parameters such as ``2M``, ``500k`` or ``2_000_000``, or a share of the model such as ``1%``.

    Raises:
        UserError: It is neither, or not between one parameter and the model's own number.
    """
    match = _BUDGET.fullmatch(text.strip())
    fix = "write it as `2M`, `500k`, `2_000_000` or, as a share of the model, `1%`"
    if match is None:
        raise UserError(f"`{text}` is no number of parameters", where="--budget", fix=fix)
    number, unit = float(match[1].replace("_", "").replace(",", "")), match[2].lower()
    budget = round(number / 100 * model_parameters) if unit == "%" else round(number * _UNITS[unit])
    if budget < 1:
        raise UserError(f"a budget of `{text}` is not one parameter", where="--budget", fix=fix)
    if budget > model_parameters:
        raise UserError(
            f"a budget of {budget:,} parameters is more than the model has ({model_parameters:,})",
            where="--budget",
            fix="ask for less, or tune the whole model: `adapter: full`",
        )
    return budget


def read_shares(text: str, methods: Sequence[str]) -> dict[str, float]:
    """Shares such as ``60,30,10`` in the order of the methods; they are divided by their sum.

    Raises:
        UserError: There are not as many as methods, or one is not above zero.
    """
    parts = [part.strip().removesuffix("%") for part in text.split(",")]
    try:
        values = [float(part) for part in parts]
    except ValueError:
        values = []
    if len(values) != len(methods) or not all(0 < v < float("inf") for v in values):
        raise UserError(
            f"`{text}` is not one share above zero for each of {', '.join(methods)}",
            where="--shares",
            fix=f"write {len(methods)} numbers, such as `{','.join(str(100 // len(methods)) for _ in methods)}`",
        )
    return dict(zip(methods, values, strict=True))


def default_shares(methods: Sequence[str]) -> dict[str, float]:
    """``SHARES`` for the methods in it; another one gets what an equal division would give it."""
    return {name: SHARES.get(name, 100.0 / len(methods)) for name in methods}


def divide(
    model: PreTrainedModel,
    configs: Sequence[MethodConfig],
    shares: Mapping[str, float],
    budget: int,
    longest: int | None = None,
) -> Plan:
    """Choose the sizes of methods so that together they train as many parameters as the budget allows.

    Each method first gets the size nearest to its share; then the sizes around these are tried together, the method
    with the finest steps filling what the others leave, and the total nearest to the budget wins; of totals within
    half the tolerance the one nearest to the shares. What a method cannot use, because the model is too small for it,
    the others get. All costs are counted from the adapters that the methods build, never from a formula.

    Args:
        model: The model, or its shapes on the meta device.
        configs: One configuration for each method; their other settings stay as they are.
        shares: By method name, in any unit.
        budget: Parameters in total.
        longest: Most virtual tokens; by default a quarter of the model's positions.

    Raises:
        UserError: A method has nothing that sizes it, or the budget is below the smallest possible sizes.
    """
    sizes = [_sized(config, model, budget, longest) for config in configs]
    total = sum(shares[s.method] for s in sizes)
    wanted = [shares[s.method] / total for s in sizes]
    least = sum(s.cost(s.least) for s in sizes)
    if budget < least * (1 - TOLERANCE):
        smallest = ", ".join(f"{s.method} {s.setting} {s.least}: {s.cost(s.least):,}" for s in sizes)
        raise UserError(
            f"a budget of {budget:,} parameters is below the smallest sizes, which train {least:,} ({smallest})",
            where="--budget",
            fix="ask for more, leave a method out with `--methods`, or give it fewer `targets` in the recipe",
        )
    values = _best(sizes, wanted, budget)
    lines = tuple(_line(size, value, share, model) for size, value, share in zip(sizes, values, wanted, strict=True))
    plan = _refined(Plan(budget, sum(p.numel() for p in model.parameters()), lines), sizes, model)
    return replace(plan, notes=tuple(_notes(plan, sizes)))


def _refined(plan: Plan, sizes: Sequence[Size], model: PreTrainedModel) -> Plan:
    """A plan that misses its budget, with one rank more at some sites where a method can have that."""
    for i, size in enumerate(sizes):
        if plan.hit:
            break
        line = plan.lines[i]
        found = with_remainder(size, plan.budget - (plan.total - line.parameters), model)
        if found is not None and abs(plan.total - line.parameters + found[1] - plan.budget) < abs(
            plan.total - plan.budget
        ):
            changed = replace(
                line, config=found[0], parameters=found[1], partly=found[0] != size.at(_value(found[0], size))
            )
            plan = replace(plan, lines=(*plan.lines[:i], changed, *plan.lines[i + 1 :]))
    return plan


def _value(config: MethodConfig, size: Size) -> int:
    return int(getattr(config, size.setting))


def fitted(
    config: MethodConfig, model: PreTrainedModel, budget: int, longest: int | None = None
) -> tuple[MethodConfig, int, str]:
    """One method at the size nearest to a budget, what it trains, and its size in words.

    A method that nothing sizes stays as it is, and the words are empty.

    Raises:
        UserError: The method does not fit the model.
    """
    if size_of(config, model, budget) is None:
        return config, parameters_of(config, model), ""
    try:
        line = divide(model, [config], {config.method: 1.0}, budget, longest).lines[0]
    except UserError:  # the smallest size is above the budget, and is the nearest
        size = _sized(config, model, budget)
        return size.at(size.least), size.cost(size.least), f"{size.setting} {size.least}"
    return line.config, line.parameters, line.size


def _sized(config: MethodConfig, model: PreTrainedModel, budget: int, longest: int | None = None) -> Size:
    size = size_of(config, model, budget, longest)
    if size is None:
        own = parameters_of(config, model)
        raise UserError(
            f"nothing sizes `{config.method}`: it trains {own:,} parameters of this model, whatever the budget",
            where="--methods",
            fix="leave it out; methods with a rank, a width or a length can be sized",
        )
    return size


def _best(sizes: Sequence[Size], wanted: Sequence[float], budget: int) -> tuple[int, ...]:
    """The sizes whose total is nearest to the budget, among those around the shares."""
    shares = reachable(sizes, wanted, budget)
    finest = min(range(len(sizes)), key=lambda i: sizes[i].each)
    around = [
        sorted({min(max(v + step, s.least), s.most) for step in (-2, -1, 0, 1, 2)})
        for s, share in zip(sizes, shares, strict=True)
        for v in (s.nearest(share * budget),)
    ]
    around[finest] = [0]
    found: list[tuple[float, float, tuple[int, ...]]] = []
    for chosen in itertools.product(*around):
        values = list(chosen)
        rest = budget - sum(s.cost(v) for i, (s, v) in enumerate(zip(sizes, values, strict=True)) if i != finest)
        values[finest] = sizes[finest].nearest(rest)
        costs = [s.cost(v) for s, v in zip(sizes, values, strict=True)]
        miss = max(0.0, abs(sum(costs) / budget - 1) - TOLERANCE / 2)  # within half the tolerance all are alike
        drift = sum(abs(c / budget - share) for c, share in zip(costs, shares, strict=True))
        found.append((miss, drift, tuple(values)))
    return min(found)[2]


def reachable(sizes: Sequence[Size], wanted: Sequence[float], budget: int) -> list[float]:
    """The shares, with what a method cannot take divided among the others in proportion to theirs."""
    limits = [min(1.0, s.cost(s.most) / budget) for s in sizes]
    shares = list(wanted)
    for _ in sizes:
        over = sum(max(0.0, share - limit) for share, limit in zip(shares, limits, strict=True))
        free = [i for i, (share, limit) in enumerate(zip(shares, limits, strict=True)) if share < limit]
        if over <= 1e-9 or not free:
            break
        weight = sum(wanted[i] for i in free)
        shares = [min(share, limit) for share, limit in zip(shares, limits, strict=True)]
        for i in free:
            shares[i] += over * wanted[i] / weight
    return [min(share, limit) for share, limit in zip(shares, limits, strict=True)]


def _line(size: Size, value: int, wanted: float, model: PreTrainedModel) -> Line:
    config = size.at(value)
    parts = parts_of(config, model)
    places = parts.sites or [item.site for item in parts.placed]
    sites = len({site.name for site in places})
    return Line(config, size.setting, count(parts, model), sites, wanted, size.capped and value == size.most)


def _notes(plan: Plan, sizes: Sequence[Size]) -> list[str]:
    notes = []
    if not plan.hit:
        step = min(sizes, key=lambda s: s.each)
        steps = f"one step of {step.method} `{step.setting}` is {step.each:,} parameters"
        if all(line.limited for line in plan.lines):
            steps = "these are the largest sizes that the methods take on this model"
        notes.append(
            f"{plan.total:,} parameters are the nearest to {plan.budget:,} that these methods reach "
            f"({plan.error:+.1%}): {steps}"
        )
    for line, size in zip(plan.lines, sizes, strict=True):
        if line.limited:
            notes.append(f"`{line.config.method}` takes no more than {size.setting} {size.most} on this model")
        if size.setting == IN_ROWS and line.value > LONG_PROMPT:
            notes.append(
                f"{line.value} virtual tokens stand before every row and cost time there; "
                "a smaller share for them makes training and inference faster"
            )
    return notes


def _plain(config: MethodConfig) -> dict[str, Any]:
    """What a recipe has to say: everything that is not a default."""
    values = config.model_dump(mode="json", exclude_defaults=True)
    values.pop("method", None)
    return values


def known_methods() -> list[str]:
    """Those of the default division that are installed."""
    return [name for name in SHARES if name in METHODS]
