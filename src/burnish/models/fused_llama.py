"""A layer of Llama, Mistral or Qwen2 through fused operations: norm, projections, rotary attention, SwiGLU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from burnish.models.maps import Beside, Chain, Resolve, beside, beside_within, hooked, maps_of
from burnish.ops.projections import Norm, Projection, add_and_norm, gate_and_project, norm_and_project, project
from burnish.ops.rotary_attention import Setting, rotary_attention

MAPS = tuple(f"self_attn.{n}_proj" for n in "qkvo") + tuple(f"mlp.{n}_proj" for n in ("gate", "up", "down"))

WINDOWS: Mapping[str, Callable[[nn.Module], int | None]] = {
    "llama": lambda attention: None,
    "mistral": lambda attention: getattr(attention.config, "sliding_window", None),
    "qwen2": lambda attention: getattr(attention, "sliding_window", None),
}
"""The architectures, and where each keeps the sliding window of an attention module."""


def plan(layer: Any, hidden: Tensor, kwargs: Mapping[str, Any], resolve: Resolve) -> dict[str, Projection] | None:
    """The layer's maps, or None where the fused form would leave something out."""
    attention, mlp = layer.self_attn, layer.mlp
    if (layer.training and attention.attention_dropout) or hooked(mlp.act_fn) or not beside_within(mlp, "parallel"):
        return None
    if not all(beside_within(norm, "behind") for norm in (layer.input_layernorm, layer.post_attention_layernorm)):
        return None
    around = beside(attention)
    if around is None or not around.within("kwargs", "parallel"):
        return None
    if not around.kwargs.keys() <= {"prefix_key", "prefix_value", "prefix_chosen"}:
        return None
    if type(mlp.act_fn).__name__ not in ("SiLUActivation", "SiLU"):
        return None
    return maps_of(layer, MAPS, resolve)


def run(layer: Any, maps: Mapping[str, Projection], kwargs: Mapping[str, Any], hidden: Tensor) -> Tensor:
    """The layer's output, [1, T, D]."""
    attention = layer.self_attn
    window = WINDOWS[attention.config.model_type](attention)
    lengths, angles = kwargs["segment_lengths"], kwargs["position_embeddings"]
    setting = Setting(lengths, attention.head_dim, attention.scaling, causal=attention.is_causal, window=window)
    cosine, sine = (a[0].to(hidden.dtype) for a in angles)
    q, k, v, o, gate, up, down = (maps[name] for name in MAPS)
    around, within = _beside(attention), _beside(layer.mlp)
    residual, x, (query, key, value) = _into(layer.input_layernorm, hidden[0], None, around.parallel, [q, k, v])
    attend = partial(rotary_attention, query, key, value, cosine, sine, setting)
    (delta,) = project(attend(**around.kwargs), [o])
    delta = _plus(delta, x, around.parallel)
    residual, x, gated = _into(layer.post_attention_layernorm, residual, delta, within.parallel, [gate, up])
    return (residual + _plus(gate_and_project(*_pair(gated), down), x, within.parallel))[None]


def _into(
    module: Any, x: Tensor, delta: Tensor | None, readers: Sequence[Chain], maps: Sequence[Projection]
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """``s = x + delta``, its norm where anything but maps reads it (else s), and the maps of the norm."""
    norm, behind = _norm(module, x), _beside(module).behind
    if behind is None and not readers and not any(p.reads for p in maps):
        total, outputs = norm_and_project(x, delta, norm, maps)
        return total, total, outputs
    total, y = add_and_norm(x, delta, norm)
    y = y if behind is None else behind(y)
    return total, y, project(y, maps)


def _plus(output: Tensor, x: Tensor, parallel: Sequence[Chain]) -> Tensor:
    """What a sublayer returns, and what runs beside it."""
    for change in parallel:
        output = output + change(x)
    return output


def _beside(module: nn.Module) -> Beside:
    found = beside(module)
    assert found is not None  # the plan asked
    return found


def _pair(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    gate, up = outputs
    return gate, up


def _norm(module: Any, hidden: Tensor) -> Norm:
    return Norm(module.weight.to(hidden.dtype), module.variance_epsilon)
