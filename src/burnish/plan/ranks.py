"""A rank for every matrix under one number of parameters, from what the gradients say of each.

Every matrix begins with a quarter of the uniform rank R, since a measurement on a few rows is no reason to leave one
out, and ends at four times R at most. Between them ranks are dealt one by one, each to the matrix where it gains most
for its parameters c = D_in + D_out. The k-th rank of a matrix gains

    svd           s_k^2 / c       s_k the k-th singular value of the gradient: the squared length that it adds to what
                                  an update can follow (Eckart and Young, 1936; so LoRA-GA and EVA choose directions)
    sensitivity   m / (k c)       m = sum |g w|; dealt so, ranks come out in proportion to m / c (D'Hondt)
    fisher        m / (k c)       m = sum of the squared gradients of the rows
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml
from transformers import PreTrainedModel

from burnish.adapters.base import MethodConfig
from burnish.adapters.lora_config import LoraConfig
from burnish.adapters.lora_layers import sides
from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.models.anatomy import Site
from burnish.plan.budget import TOLERANCE, Budgeted, fitted
from burnish.plan.importance import Salience
from burnish.plan.sizes import parameters_of, parts_of, with_value

Gain = Callable[[Salience, int], float]

GAINS: Mapping[str, Gain] = {
    "svd": lambda one, k: one.singular[k - 1] ** 2 if k <= len(one.singular) else 0.0,
    "sensitivity": lambda one, k: one.sensitivity / k,
    "fisher": lambda one, k: one.fisher / k,
}
"""What the k-th rank of a matrix gains, before it is divided by its parameters."""

LEAST, MOST = 0.25, 4.0
"""Bounds of a rank, as multiples of the uniform one."""


@dataclass(frozen=True)
class RankPlan(Budgeted):
    """Ranks under a budget.

    Attributes:
        config: The configuration with the uniform rank.
        by: What they were dealt by.
        budget: Parameters that were asked for.
        ranks: By module name.
        total: Parameters with these ranks, counted from the adapters that are built.
        uniform: Parameters with the uniform rank.
    """

    config: LoraConfig
    by: str
    budget: int
    ranks: dict[str, int]
    total: int
    uniform: int

    @property
    def suggested(self) -> LoraConfig:
        """The configuration with these ranks."""
        return patterned(self.config, self.ranks)

    def to_json(self) -> dict[str, Any]:
        """For a file of results."""
        return {
            "by": self.by,
            "budget": self.budget,
            "parameters": self.total,
            "error": self.error,
            "hit": self.hit,
            "uniform_rank": self.config.rank,
            "uniform_parameters": self.uniform,
            "ranks": self.ranks,
        }


def deal(
    gains: Mapping[str, Callable[[int], float]],
    costs: Mapping[str, int],
    budget: int,
    least: Mapping[str, int],
    most: Mapping[str, int],
) -> dict[str, int]:
    """Ranks whose sum of costs comes as near to a budget from below as single ranks allow.

    Args:
        gains: What the k-th rank of each gains.
        costs: Parameters of one rank of each.
        budget: Parameters in total.
        least: Rank that each has in any case.
        most: Rank that each has at most.
    """
    ranks = {name: min(least[name], most[name]) for name in gains}
    rest = budget - sum(costs[name] * rank for name, rank in ranks.items())
    order = {name: number for number, name in enumerate(gains)}

    def offer(name: str) -> tuple[float, int, str]:
        return -gains[name](ranks[name] + 1) / costs[name], order[name], name

    heap = [offer(name) for name in gains if ranks[name] < most[name]]
    heapq.heapify(heap)
    while heap:
        *_, name = heapq.heappop(heap)
        if costs[name] <= rest:  # one that is too dear now is too dear for good
            ranks[name] += 1
            rest -= costs[name]
            if ranks[name] < most[name]:
                heapq.heappush(heap, offer(name))
    return ranks


def sites_of(config: MethodConfig, model: PreTrainedModel) -> list[Site]:
    """The matrices that a configuration acts on.

    Raises:
        UserError: The method refuses the model.
    """
    return [item.site for item in parts_of(config, model).placed]


def lora_of(adapters: Sequence[MethodConfig]) -> tuple[int, LoraConfig]:
    """The entry of a recipe whose ranks can be dealt, and its number.

    Raises:
        UserError: There is none, or it deals out ranks itself.
    """
    for number, one in enumerate(adapters):
        if isinstance(one, LoraConfig):
            if one.init_options.rho != 1:
                raise UserError(
                    "`init_options.rho` deals out ranks itself", where="adapter.init_options", fix="leave `rho` out"
                )
            return number, one
    names = ", ".join(f"`{one.method}`" for one in adapters)
    raise UserError(
        f"ranks belong to `lora`, and this recipe trains {names}", where="adapter", fix="ask with `adapter=lora`"
    )


def way(by: str) -> Gain:
    """What ranks are dealt by.

    Raises:
        UserError: There is no such way.
    """
    if by not in GAINS:
        raise UserError(f"ranks cannot be dealt by `{by}`", where="--by", fix=suggestion(by, list(GAINS)))
    return GAINS[by]


def plan_ranks(
    config: LoraConfig,
    model: PreTrainedModel,
    found: Sequence[Salience],
    by: str = "svd",
    budget: int | None = None,
) -> RankPlan:
    """Deal ranks.

    Args:
        config: The configuration whose other settings stay as they are; its own pattern is left out.
        model: The model, or its shapes.
        found: What the gradients say of each of its sites.
        by: A name in ``GAINS``.
        budget: Parameters; without it those of the uniform rank.

    Raises:
        UserError: There is no such name, the budget is too small, or the method refuses the ranks.
    """
    gain = way(by)
    config = _plain(config)
    if budget is not None:
        nearest = fitted(config, model, budget)[0]
        assert isinstance(nearest, LoraConfig)
        config = _plain(nearest)
    uniform = parameters_of(config, model)
    budget = uniform if budget is None else budget
    costs, fixed = _costs(config, model)
    if sum(costs.values()) + fixed > budget * (1 + TOLERANCE):
        raise UserError(
            f"a budget of {budget:,} parameters is below one rank for each of {len(costs)} matrices, "
            f"{sum(costs.values()) + fixed:,}",
            where="--budget",
            fix="ask for more, or give the recipe fewer `adapter.targets`",
        )
    known = {one.name: one for one in found}
    side = {site.name: min(sides(site.host) or (1, 1)) for site in sites_of(config, model)}
    gains = {name: (lambda k, one=known[name]: gain(one, k)) for name in costs}
    least = dict.fromkeys(costs, max(1, int(LEAST * config.rank)))
    most = {name: min(side[name], max(1, int(MOST * config.rank))) for name in costs}
    ranks = deal(gains, costs, budget - fixed, least, most)
    return RankPlan(config, by, budget, ranks, parameters_of(patterned(config, ranks), model), uniform)


def _plain(config: LoraConfig) -> LoraConfig:
    """The configuration without patterns."""
    values = config.model_dump(exclude_unset=True, exclude={"rank_pattern", "alpha_pattern"})
    return LoraConfig(**values)


def _costs(config: LoraConfig, model: PreTrainedModel) -> tuple[dict[str, int], int]:
    """Parameters of one rank at each site, and those that no rank changes, counted from adapters that are built."""
    first, second = (
        {p.site.name: sum(n.numel() for n in p.adapter.parameters()) for p in parts_of(changed, model).placed}
        for rank in (2, 4)
        if (changed := with_value(config, "rank", rank)) is not None
    )
    costs = {name: (second[name] - cost) // 2 for name, cost in first.items()}
    return costs, sum(first.values()) - 2 * sum(costs.values())


def patterned(config: LoraConfig, ranks: Mapping[str, int]) -> LoraConfig:
    """The configuration with these ranks; a fixed alpha follows them, so that the scale of each update stays.

    Without an alpha it does so by itself: it is 2 * rank then (with `rslora` the scale falls as the root of the rank).
    """
    pattern = {name: rank for name, rank in ranks.items() if rank != config.rank}
    changed: dict[str, Any] = {"rank_pattern": pattern}
    if config.alpha is not None and not config.rslora:
        changed["alpha_pattern"] = {name: config.alpha * rank / config.rank for name, rank in pattern.items()}
    return config.model_copy(update=changed)


def overlay(adapters: Sequence[MethodConfig], number: int, plan: RankPlan) -> str:
    """The `adapter` section with the dealt ranks, as a file of settings.

    Args:
        adapters: The recipe's entries.
        number: Which of them the plan is of.
        plan: The ranks.
    """
    entries = [plan.suggested if i == number else one for i, one in enumerate(adapters)]
    values = [{"method": one.method, **one.model_dump(mode="json", exclude_unset=True)} for one in entries]
    section: Any = values[0] if len(values) == 1 else values
    return yaml.safe_dump({"adapter": section}, sort_keys=False, allow_unicode=True, width=110)
