"""Run the layers of a model through fused operations, on packs, for one model instance.

The layer's own ``forward`` stays where it is and is taken whenever the fused one does not apply: generation, padded
batches, adapters that the fused maps do not know. ``fuse`` holds the fused layers against the plain ones on a probe and
takes them back where they differ. Nothing but the instance is touched, and ``unfuse`` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.types import Batch
from burnish.models import fused_bert, fused_llama
from burnish.models.forward import hidden_states, packing_mode
from burnish.models.maps import Resolve, plain
from burnish.models.probe import probe_ids, probing, tolerance
from burnish.ops.projections import Projection

_PROBE_LENGTHS = (19, 5, 12)

Maps = Mapping[str, Projection]


class Family(NamedTuple):
    """Layers that are built alike.

    Attributes:
        maps: Names of the linear layers within a layer; a module that has them all is one.
        plan: From layer, hidden states, arguments and ``Resolve`` to its maps, or None where fusing does not fit.
        run: From layer, maps, arguments and hidden states to the layer's output.
    """

    maps: tuple[str, ...]
    plan: Callable[[Any, Tensor, Mapping[str, Any], Resolve], Maps | None]
    run: Callable[[Any, Maps, Mapping[str, Any], Tensor], Tensor]


_LLAMA = Family(fused_llama.MAPS, fused_llama.plan, fused_llama.run)
_BERT = Family(fused_bert.MAPS, fused_bert.plan, fused_bert.run)

FAMILIES: Mapping[str, Family] = {
    **dict.fromkeys(fused_llama.WINDOWS, _LLAMA),
    **dict.fromkeys(("bert", "roberta", "xlm-roberta", "camembert"), _BERT),
}
"""Architectures whose layers are fused."""


def fuse(model: PreTrainedModel, resolve: Resolve = plain, *, proved: bool = True) -> int:
    """Let the layers of a model take the fused way on packs; how many of them do.

    Under autocast the fused layers compute in its format, and are held against the plain ones in it.

    Args:
        model: Any model; those that are not in ``FAMILIES``, or do not pack, are left alone.
        resolve: Says what a linear layer computes, adapters included; asked anew in every forward pass.
        proved: Hold the fused layers against the plain ones, which needs numbers and not shapes alone.
    """
    family = FAMILIES.get(model.config.model_type)
    layers = [m for m in _layers(model, family) if _fits(model, m, family, resolve)] if family else []
    if family is None or not layers or packing_mode(model) != "segments":
        return 0
    expected = _probe(model) if proved else None
    for layer in layers:
        layer.forward = MethodType(partial(_forward, family=family, resolve=resolve), layer)
    if expected is None:
        return len(layers)
    error = (_probe(model) - expected).abs().max()
    if not bool(error <= tolerance(expected, _format(model))):  # NaN fails
        unfuse(model)
        return 0
    return len(layers)


def unfuse(model: PreTrainedModel) -> None:
    """Give every layer its own forward back."""
    for family in set(FAMILIES.values()):
        for layer in _layers(model, family):
            layer.__dict__.pop("forward", None)


def fused_maps(model: PreTrainedModel) -> list[nn.Linear]:
    """The linear layers that fused layers compute, as far as they are plain ones."""
    family = FAMILIES.get(model.config.model_type)
    fused = [layer for layer in _layers(model, family) if "forward" in layer.__dict__] if family else []
    found = [layer.get_submodule(name) for layer in fused for name in family.maps] if family else []
    return [host for host in found if type(host) is nn.Linear]


def _fits(model: PreTrainedModel, layer: nn.Module, family: Family, resolve: Resolve) -> bool:
    hidden = torch.zeros(1, 1, model.config.hidden_size, dtype=_format(model), device=model.device)
    return family.plan(layer, hidden, {}, resolve) is not None


def _format(model: PreTrainedModel) -> torch.dtype:
    device = model.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.dtype


def _layers(model: nn.Module, family: Family) -> list[Any]:
    return [m for m in model.modules() if all(_has(m, name) for name in family.maps)]


def _has(module: nn.Module, name: str) -> bool:
    inner: Any = module
    for part in name.split("."):
        inner = inner._modules.get(part)
        if inner is None:
            return False
    return True


def _probe(model: PreTrainedModel) -> Tensor:
    ids = probe_ids(model, sum(_PROBE_LENGTHS))
    positions = torch.cat([torch.arange(n) for n in _PROBE_LENGTHS])[None].to(ids.device)
    batch: Batch = {"input_ids": ids, "position_ids": positions, "segment_lengths": _PROBE_LENGTHS}
    batch["tasks"] = (None,) * len(_PROBE_LENGTHS)
    with probing(model):
        return hidden_states(model, batch).double()


def _forward(layer: Any, hidden: Tensor, *args: Any, family: Family, resolve: Resolve, **kwargs: Any) -> Tensor:
    """The layer's forward: fused where that gives the same, else its own."""
    device = hidden.device.type
    cast = hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden
    maps = family.plan(layer, cast, kwargs, resolve) if _packed(hidden, args, kwargs) else None
    if maps is None:
        return type(layer).forward(layer, hidden, *args, **kwargs)
    run = partial(_without_autocast, family.run, layer, maps, kwargs)
    # where the class's own forward is the one that checkpoints, ours has to
    if layer.gradient_checkpointing and layer.training and hasattr(type(layer).forward, "__wrapped__"):
        return layer._gradient_checkpointing_func(run, cast)
    return run(cast)


def _packed(hidden: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether this is a pack, outside of the probe of packing and without a cache; a mask is of no meaning then."""
    return (
        kwargs.get("segment_lengths") is not None
        and kwargs.get("segment_witness") is None
        and kwargs.get("past_key_values") is None
        and hidden.shape[0] == 1
        and all(a is None for a in args[1:])
    )


def _without_autocast(
    run: Callable[..., Tensor], layer: Any, maps: Maps, kwargs: Mapping[str, Any], hidden: Tensor
) -> Tensor:
    with torch.autocast(hidden.device.type, enabled=False):
        return run(layer, maps, kwargs, hidden)
