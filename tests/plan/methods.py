"""Two small methods, registered for a test: one with a width at every layer, one with a length at the inputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import nn
from transformers import PreTrainedModel

from burnish.adapters.base import METHODS, Adapter, Method, MethodConfig, Parts, Placed
from burnish.models.anatomy import Site, layers, select, sites


class WidthConfig(MethodConfig):
    """A network of two maps with biases at every layer."""

    method: Literal["test-width"] = "test-width"
    depth: int = 3
    """A whole number that changes no shape."""
    width: int | None = Field(None, ge=1)
    """m: each layer gets 2 D m + m + D parameters."""


class LengthConfig(MethodConfig):
    """Virtual tokens."""

    method: Literal["test-length"] = "test-length"
    length: int = Field(8, ge=1, le=20)
    """P: P D parameters."""


class RankConfig(MethodConfig):
    """LoRA's shapes with other ranks at some sites."""

    method: Literal["test-rank"] = "test-rank"
    rank: int = Field(4, ge=1)
    """R at every site."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Other ranks, in the language of targets."""


class New(Adapter):
    """Parameters of given shapes."""

    def __init__(self, *shapes: tuple[int, ...], device: torch.device) -> None:
        super().__init__()
        for i, shape in enumerate(shapes):
            self.register_parameter(f"p{i}", nn.Parameter(torch.zeros(shape, device=device)))


def _width(model: PreTrainedModel, config: WidthConfig, seed: int) -> Parts:
    D, m = model.config.hidden_size, config.width or 2
    made = [
        (Site(f"layer{i}", "mlp.down", host, i), New((m, D), (m,), (D, m), (D,), device=model.device))
        for i, host in layers(model)
    ]
    return Parts(placed=tuple(Placed(site, adapter) for site, adapter in made))


def _length(model: PreTrainedModel, config: LengthConfig, seed: int) -> Parts:
    site = next(s for s in sites(model) if s.host is model.get_input_embeddings())
    return Parts(placed=(Placed(site, New((config.length, model.config.hidden_size), device=model.device)),))


def _rank(model: PreTrainedModel, config: RankConfig, seed: int) -> Parts:
    ranks = {s.name: rank for key, rank in reversed(config.rank_pattern.items()) for s in select(model, key)}
    placed = []
    for site in select(model, "all-linear"):
        rank = ranks.get(site.name, config.rank)
        shapes = (rank, site.host.in_features), (site.host.out_features, rank)
        placed.append(Placed(site, New(*shapes, device=model.device)))
    return Parts(placed=tuple(placed))


@contextmanager
def registered() -> Iterator[None]:
    """Both methods in the table, as long as the context lasts."""
    made = {
        "test-rank": Method("test-rank", RankConfig, _rank, 1e-3, "a test"),
        "test-width": Method("test-width", WidthConfig, _width, 1e-3, "a test"),
        "test-length": Method("test-length", LengthConfig, _length, 1e-3, "a test"),
    }
    METHODS._items.update(made)
    try:
        yield
    finally:
        for name in made:
            del METHODS._items[name]
