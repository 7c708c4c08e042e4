"""A layer of BERT or RoBERTa through fused operations: projections, attention, GELU, norms behind the residual."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from burnish.models.maps import Resolve, beside, beside_within, hooked, maps_of
from burnish.ops.encoder_parts import gelu_and_project, head_attention, norm_after, sum_and_norm, usable
from burnish.ops.projections import Projection, project

MAPS = (
    *(f"attention.self.{name}" for name in ("query", "key", "value")),
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
_SKIPPED = (
    "attention",
    "attention.self",
    "attention.output.dropout",
    "intermediate",
    "intermediate.intermediate_act_fn",
    "output.dropout",
)
_ENDS = ("attention.output", "output")


def plan(layer: Any, hidden: Tensor, kwargs: Mapping[str, Any], resolve: Resolve) -> dict[str, Projection] | None:
    """The layer's maps, or None where the fused form would leave something out."""
    if getattr(layer, "is_decoder", False) or any(hooked(layer.get_submodule(name)) for name in _SKIPPED):
        return None
    if not all(_followed(layer.get_submodule(name)) for name in _ENDS):
        return None
    if type(layer.intermediate.intermediate_act_fn).__name__ != "GELUActivation":
        return None
    if not usable(hidden[0], layer.attention.self.attention_head_size):
        return None
    return maps_of(layer, MAPS, resolve)


def run(layer: Any, maps: Mapping[str, Projection], kwargs: Mapping[str, Any], hidden: Tensor) -> Tensor:
    """The layer's output, [1, T, D]."""
    attention, lengths = layer.attention.self, kwargs["segment_lengths"]
    q, k, v, out, up, down = (maps[name] for name in MAPS)
    query, key, value = project(hidden[0], [q, k, v])
    width, rate = attention.attention_head_size, _rate(attention.dropout)
    attended = head_attention(query, key, value, lengths, width, rate, causal=attention.is_causal)
    middle = _behind(layer.attention.output, project(attended, [out])[0], hidden[0])
    return _behind(layer.output, gelu_and_project(project(middle, [up])[0], down), middle)[None]


def _followed(part: Any) -> bool:
    """Whether ``_behind`` does all that hangs on the end of a sublayer."""
    return beside_within(part, "residual") and beside_within(part.LayerNorm, "normed", "behind")


def _behind(part: Any, x: Tensor, residual: Tensor) -> Tensor:
    around, at_norm, norm = beside(part), beside(part.LayerNorm), part.LayerNorm
    assert around is not None and at_norm is not None  # the plan asked
    settings = (norm.weight, norm.bias, norm.eps)
    residual = residual if around.residual is None else around.residual(residual)
    if at_norm.normed:
        total, y = sum_and_norm(x, residual, *settings, _rate(part.dropout))
        for change in at_norm.normed:
            total, y = sum_and_norm(change(y), total, *settings, 0.0)
    else:
        y = norm_after(x, residual, *settings, _rate(part.dropout))
    return y if at_norm.behind is None else at_norm.behind(y)


def _rate(module: nn.Dropout) -> float:
    return module.p if module.training else 0.0
