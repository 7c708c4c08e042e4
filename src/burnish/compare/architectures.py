"""What a search tries: methods with their sizes and places, and a learning rate around each method's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from transformers import PreTrainedModel

from burnish.adapters.lora_layers import sides
from burnish.adapters.registry import METHODS
from burnish.compare.variants import Variant
from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.models.anatomy import ALL_LINEAR, select, sites

RANKS = (2, 4, 8, 16, 32, 64)
REDUCTIONS = (2, 4, 8, 16, 32, 64)
TOKENS = (5, 10, 20, 50, 100)
NARROWEST = 4
FURTHEST = 8.0
"""Most that the learning rate is moved from the method's own, as a factor."""
PLACES: Mapping[str, tuple[str, ...]] = {
    "query and value": ("attention.query", "attention.value"),
    "attention": ("attention",),
    "feed-forward": ("mlp",),
}
"""Targets by what they are called, besides all linear maps."""
EVERYWHERE = "all linear maps"


class Chooser(Protocol):
    """What chooses values: an Optuna trial."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some values."""
        ...

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in a range."""
        ...


@dataclass(frozen=True)
class Space:
    """What is tried on one model.

    Attributes:
        methods: Names in ``MAKERS``.
        places: Names of targets that the model has.
        ranks: Ranks that every matrix of it can take.
        reductions: Factors that leave a bottleneck at least ``NARROWEST`` wide.
    """

    methods: tuple[str, ...]
    places: tuple[str, ...]
    ranks: tuple[int, ...] = RANKS
    reductions: tuple[int, ...] = REDUCTIONS

    def variant(self, chooser: Chooser, label: str) -> Variant:
        """A candidate.

        Args:
            chooser: Chooses its values.
            label: What to call it.
        """
        method = chooser.suggest_categorical("method", list(self.methods))
        parts = MAKERS[method](self, chooser)
        own = min(METHODS[name].learning_rate for name, _ in parts)
        factor = chooser.suggest_float("rate", 1 / FURTHEST, FURTHEST, log=True)
        return Variant(label, tuple(parts), ("evaluate.retention=none",), float(f"{own * factor:.2e}"))


Parts = Sequence[tuple[str, Mapping[str, Any]]]


def _lora(space: Space, chooser: Chooser, name: str = "lora") -> Parts:
    rank = chooser.suggest_categorical(f"{name}.rank", space.ranks)
    place = chooser.suggest_categorical(f"{name}.targets", space.places)
    targets = list(PLACES[place]) if place in PLACES else ALL_LINEAR
    return [("lora", {"rank": rank, "targets": targets})]


def _bottleneck(space: Space, chooser: Chooser, name: str = "bottleneck") -> Parts:
    settings = {
        "reduction_factor": chooser.suggest_categorical(f"{name}.reduction_factor", space.reductions),
        "placement": chooser.suggest_categorical(f"{name}.placement", ("feed-forward", "attention", "both")),
        "form": chooser.suggest_categorical(f"{name}.form", ("sequential", "parallel")),
    }
    return [("bottleneck", settings)]


def _prompt(space: Space, chooser: Chooser) -> Parts:
    return [("prompt", {"num_virtual_tokens": chooser.suggest_categorical("prompt.num_virtual_tokens", TOKENS)})]


def _hybrid(space: Space, chooser: Chooser) -> Parts:
    return [*_lora(space, chooser, "hybrid.lora"), *_bottleneck(space, chooser, "hybrid.bottleneck")]


MAKERS: Mapping[str, Callable[[Space, Chooser], Parts]] = {
    "lora": _lora,
    "bottleneck": _bottleneck,
    "hybrid": _hybrid,
    "prompt": _prompt,
    "ia3": lambda space, chooser: [("ia3", {})],
}
"""How a method's settings are chosen; ``hybrid`` is LoRA and bottleneck adapters in one model."""

DEFAULT = ("lora", "bottleneck", "hybrid")


def space_of(model: PreTrainedModel, methods: str | None = None) -> Space:
    """What can be tried on a model.

    Args:
        model: The model, or its shapes.
        methods: Names between commas; ``DEFAULT`` without any.

    Raises:
        UserError: A name is not known, or named twice.
    """
    names = [name.strip() for name in methods.split(",")] if methods else list(DEFAULT)
    for position, name in enumerate(names):
        if name not in MAKERS:
            raise UserError(f"`{name}` cannot be searched", where="--methods", fix=suggestion(name, list(MAKERS)))
        if name in names[:position]:
            raise UserError(f"`{name}` is named twice", where="--methods", fix="name each method once")
    roles = {str(site.role) for site in sites(model)}
    smallest = min(min(sides(site.host) or (1, 1)) for site in select(model, ALL_LINEAR))
    hidden = int(model.config.get_text_config().hidden_size)
    ranks = tuple(rank for rank in RANKS if rank <= smallest) or (1,)
    reductions = tuple(factor for factor in REDUCTIONS if hidden // factor >= NARROWEST) or (1,)
    places = [
        place
        for place, targets in PLACES.items()
        if all(any(role == target or role.startswith(f"{target}.") for role in roles) for target in targets)
    ]
    return Space(tuple(names), (*places, EVERYWHERE), ranks, reductions)
