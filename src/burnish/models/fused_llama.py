"""A layer of Llama, Mistral or Qwen2 through fused operations: norm, projections, rotary attention, SwiGLU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from burnish.models.maps import Resolve, added, hooked, maps_of
from burnish.ops.projections import Norm, Projection, gate_and_project, norm_and_project, project
from burnish.ops.rotary_attention import Setting, rotary_attention

MAPS = tuple(f"self_attn.{n}_proj" for n in "qkvo") + tuple(f"mlp.{n}_proj" for n in ("gate", "up", "down"))
_ALONE = ("self_attn.o_proj", "mlp.down_proj")
"""Maps that share their input with no other."""

WINDOWS: Mapping[str, Callable[[nn.Module], int | None]] = {
    "llama": lambda attention: None,
    "mistral": lambda attention: getattr(attention.config, "sliding_window", None),
    "qwen2": lambda attention: getattr(attention, "sliding_window", None),
}
"""The architectures, and where each keeps the sliding window of an attention module."""


def plan(layer: Any, hidden: Tensor, kwargs: Mapping[str, Any], resolve: Resolve) -> dict[str, Projection] | None:
    """The layer's maps, or None where the fused form would leave something out."""
    attention, mlp = layer.self_attn, layer.mlp
    skipped = (mlp, mlp.act_fn, layer.input_layernorm, layer.post_attention_layernorm)
    if (layer.training and attention.attention_dropout) or any(hooked(module) for module in skipped):
        return None
    extra = added(attention)
    if extra is None or not extra.keys() <= {"prefix_key", "prefix_value", "prefix_chosen"}:
        return None
    if type(mlp.act_fn).__name__ not in ("SiLUActivation", "SiLU"):
        return None
    maps = maps_of(layer, MAPS, resolve)
    if maps is not None and any(maps[name].first is not None for name in MAPS if name not in _ALONE):
        return None
    return maps


def run(layer: Any, maps: Mapping[str, Projection], kwargs: Mapping[str, Any], hidden: Tensor) -> Tensor:
    """The layer's output, [1, T, D]."""
    attention = layer.self_attn
    window = WINDOWS[attention.config.model_type](attention)
    lengths, angles = kwargs["segment_lengths"], kwargs["position_embeddings"]
    setting = Setting(lengths, attention.head_dim, attention.scaling, causal=attention.is_causal, window=window)
    cosine, sine = (a[0].to(hidden.dtype) for a in angles)
    q, k, v, o, gate, up, down = (maps[name] for name in MAPS)
    first, second = _norm(layer.input_layernorm, hidden), _norm(layer.post_attention_layernorm, hidden)
    residual, (query, key, value) = norm_and_project(hidden[0], None, first, [q, k, v])
    attend = partial(rotary_attention, query, key, value, cosine, sine, setting)
    (delta,) = project(attend(**(added(attention) or {})), [o])
    residual, gated = norm_and_project(residual, delta, second, [gate, up])
    return (residual + gate_and_project(*_pair(gated), down))[None]


def _pair(outputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    gate, up = outputs
    return gate, up


def _norm(module: Any, hidden: Tensor) -> Norm:
    return Norm(module.weight.to(hidden.dtype), module.variance_epsilon)
