"""Run the layers of Llama and its relatives through fused operations, on packs, for one model instance.

The layer's own ``forward`` stays where it is and is taken whenever the fused one does not apply: generation, padded
batches, adapters that the fused maps do not know. ``fuse`` holds the fused layers against the plain ones on a probe and
takes them back where they differ. Nothing but the instance is touched, and ``unfuse`` undoes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.types import Batch
from burnish.models.forward import hidden_states, packing_mode
from burnish.models.probe import probe_ids, probing, tolerance
from burnish.ops.projections import Norm, Projection, gate_and_project, norm_and_project, project
from burnish.ops.rotary_attention import Setting, rotary_attention

Resolve = Callable[[nn.Module], Projection | None]
"""From a linear layer to what it computes, or None where that is more than a map with a low-rank update."""

WINDOWS: Mapping[str, Callable[[nn.Module], int | None]] = {
    "llama": lambda attention: None,
    "mistral": lambda attention: getattr(attention.config, "sliding_window", None),
    "qwen2": lambda attention: getattr(attention, "sliding_window", None),
}
"""Architectures whose layers are fused, and where each keeps the sliding window of an attention module."""

_ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
_MLP = ("gate_proj", "up_proj", "down_proj")
_PROBE_LENGTHS = (19, 5, 12)


def plain(host: nn.Module) -> Projection | None:
    """A linear layer without hooks, as it is."""
    if type(host) is not nn.Linear or hooked(host):
        return None
    return Projection(host.weight, host.bias)


def hooked(module: nn.Module) -> int:
    """How many forward and backward hooks hang on a module."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return sum(len(h) for h in hooks)


def fuse(model: PreTrainedModel, resolve: Resolve = plain) -> int:
    """Let the layers of a model take the fused way on packs; how many of them do.

    Args:
        model: Any model; those that are not in ``WINDOWS``, or do not pack, are left alone.
        resolve: Says what a linear layer computes, adapters included; asked anew in every forward pass.
    """
    window = WINDOWS.get(model.config.model_type)
    layers = [m for m in model.modules() if _is_layer(m)] if window else []
    if not window or not layers or packing_mode(model) != "segments":
        return 0
    expected = _probe(model)
    for layer in layers:
        layer.forward = MethodType(partial(_forward, resolve=resolve, window=window(layer.self_attn)), layer)
    error = (_probe(model) - expected).abs().max()
    if not bool(error <= tolerance(expected, model)):  # NaN fails
        unfuse(model)
        return 0
    return len(layers)


def unfuse(model: PreTrainedModel) -> None:
    """Give every layer its own forward back."""
    for module in model.modules():
        if _is_layer(module):
            module.__dict__.pop("forward", None)


def _is_layer(module: nn.Module) -> bool:
    parts = {"self_attn": _ATTENTION, "mlp": _MLP}
    return hasattr(module, "input_layernorm") and all(
        all(isinstance(getattr(getattr(module, part, None), name, None), nn.Module) for name in names)
        for part, names in parts.items()
    )


def _probe(model: PreTrainedModel) -> Tensor:
    ids = probe_ids(model, sum(_PROBE_LENGTHS))
    positions = torch.cat([torch.arange(n) for n in _PROBE_LENGTHS])[None].to(ids.device)
    batch: Batch = {"input_ids": ids, "position_ids": positions, "segment_lengths": _PROBE_LENGTHS}
    with probing(model):
        return hidden_states(model, batch).double()


def _forward(layer: Any, hidden: Tensor, *args: Any, resolve: Resolve, window: int | None, **kwargs: Any) -> Tensor:
    """The layer's forward: fused where that gives the same, else its own."""
    maps = _maps(layer, resolve) if not args and _applies(layer, hidden, kwargs) else None
    if maps is None:
        return type(layer).forward(layer, hidden, *args, **kwargs)
    run = partial(_fused, layer, maps, _setting(layer, kwargs, window), kwargs["position_embeddings"])
    # where the class's own forward is the one that checkpoints, ours has to
    if layer.gradient_checkpointing and layer.training and hasattr(type(layer).forward, "__wrapped__"):
        return layer._gradient_checkpointing_func(run, hidden)
    return run(hidden)


def _applies(layer: Any, hidden: Tensor, kwargs: Mapping[str, Any]) -> bool:
    attention = layer.self_attn
    skipped = (attention, layer.mlp, layer.mlp.act_fn, layer.input_layernorm, layer.post_attention_layernorm)
    return (
        kwargs.get("segment_lengths") is not None
        and kwargs.get("segment_witness") is None
        and kwargs.get("past_key_values") is None
        and hidden.shape[0] == 1
        and not (layer.training and attention.attention_dropout)
        and not any(hooked(module) for module in skipped)
    )


def _maps(layer: Any, resolve: Resolve) -> dict[str, Projection] | None:
    if type(layer.mlp.act_fn).__name__ not in ("SiLUActivation", "SiLU"):
        return None
    found = {name: resolve(getattr(layer.self_attn, name)) for name in _ATTENTION}
    found |= {name: resolve(getattr(layer.mlp, name)) for name in _MLP}
    return {n: p for n, p in found.items() if p is not None} if all(found.values()) else None


def _setting(layer: Any, kwargs: Mapping[str, Any], window: int | None) -> Setting:
    attention = layer.self_attn
    lengths = kwargs["segment_lengths"]
    return Setting(lengths, attention.head_dim, attention.scaling, causal=attention.is_causal, window=window)


def _fused(
    layer: Any, maps: Mapping[str, Projection], setting: Setting, angles: Sequence[Tensor], hidden: Tensor
) -> Tensor:
    device = hidden.device.type
    if torch.is_autocast_enabled(device):
        hidden = hidden.to(torch.get_autocast_dtype(device))
    cosine, sine = (a[0].to(hidden.dtype) for a in angles)
    with torch.autocast(device, enabled=False):
        first, second = _norm(layer.input_layernorm, hidden), _norm(layer.post_attention_layernorm, hidden)
        residual, (query, key, value) = norm_and_project(hidden[0], None, first, _chosen(maps, *_ATTENTION[:3]))
        attended = rotary_attention(query, key, value, cosine, sine, setting)
        (delta,) = project(attended, _chosen(maps, "o_proj"))
        residual, (gate, up) = norm_and_project(residual, delta, second, _chosen(maps, "gate_proj", "up_proj"))
        return (residual + gate_and_project(gate, up, maps["down_proj"]))[None]


def _chosen(maps: Mapping[str, Projection], *names: str) -> list[Projection]:
    return [maps[name] for name in names]


def _norm(module: Any, hidden: Tensor) -> Norm:
    return Norm(module.weight.to(hidden.dtype), module.variance_epsilon)
