"""Bottleneck adapters: a small network of two maps and an activation, behind a sublayer or beside it.

Shapes: D width of the hidden states, W width of the bottleneck.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import (
    RESERVED,
    Adapter,
    MethodConfig,
    NotMergeable,
    Parts,
    Placed,
    method,
    site_generator,
)
from burnish.adapters.layers import LayerTarget, in_layers
from burnish.core.errors import UserError
from burnish.models.anatomy import ANATOMY, Site, sites
from burnish.models.sublayers import RESIDUAL, Part, sublayers
from burnish.ops.dropout import dropout

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "leaky_relu": F.leaky_relu,
}
PLACEMENTS: Mapping[str, tuple[Part, ...]] = {
    "feed-forward": ("mlp",),
    "attention": ("attention",),
    "both": ("attention", "mlp"),
}
_LAST: Mapping[str, str] = {"attention": "attention.output", "mlp": "mlp.down"}
DEFAULT_REDUCTION = 16


class BottleneckConfig(MethodConfig):
    """Small networks in the layers of a frozen model: down to a bottleneck, an activation, and up again."""

    method: Literal["bottleneck"] = "bottleneck"
    placement: Literal["feed-forward", "attention", "both"] = "feed-forward"
    """Behind which sublayers: the feed-forward only (Pfeiffer et al., 2020), the attentions only, or `both` (Houlsby et
    al., 2019)."""
    form: Literal["sequential", "parallel", "after-norm"] = "sequential"
    """`sequential` reads what the sublayer returns; `parallel` reads what goes into it (He et al., 2022). `after-norm`
    reads what the norm behind residual and sublayer makes of their sum, adds to that sum, and lets it be normed again
    (Pfeiffer et al., 2021); of BERT and its relatives only, which norm there."""
    width: int | None = Field(None, ge=1)
    """Width W of the bottleneck: each adapter gets 2 * D * W + W + D new parameters."""
    reduction_factor: float | None = Field(None, ge=1, allow_inf_nan=False)
    """W = D / reduction_factor, in place of `width`; 16 where neither is given."""
    activation: Literal["relu", "gelu", "gelu_tanh", "silu", "swish", "tanh", "leaky_relu"] = "relu"
    """Activation between the two maps."""
    scale: float | Literal["learned"] = 1.0
    """Factor s on what is added (He et al., 2022: 4), or `learned`: one number per adapter that starts at 1."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout inside the bottleneck while training."""
    norm: bool = False
    """A layer norm of its own on the adapter's input."""
    targets: LayerTarget | tuple[LayerTarget, ...] = "all"
    """In which layers: `all`, a number such as `5`, `-1` for the last one, a range such as `4-7`, or `re:PATTERN`
    searched for in the full names of the modules that would carry an adapter; one or a list. An encoder-decoder's
    decoder counts on from its encoder."""

    @model_validator(mode="after")
    def _one_width(self) -> BottleneckConfig:
        if self.width is not None and self.reduction_factor is not None:
            raise ValueError("`width` and `reduction_factor` say the same thing; leave one out")
        if not isinstance(self.scale, str) and not (math.isfinite(self.scale) and self.scale):
            raise ValueError("`scale` must be a finite number other than 0, or `learned`")
        return self

    def width_at(self, hidden: int) -> int:
        """W for a model of width D."""
        return self.width or max(1, int(hidden // (self.reduction_factor or DEFAULT_REDUCTION)))


class Bottleneck(Adapter):
    """``f(x) = s (act(norm(x) W_down^T + b_down) W_up^T + b_up)``, which the subclasses add to something.

    ``down`` is [W, D] and ``up`` is [D, W]. As with LoRA they are kept in fp32 and cast for the products. ``up`` and
    both biases start at zero, so f is zero and the model is that of before to the bit; Houlsby et al. start near zero
    (normal, 0.01). ``down`` is Kaiming-uniform with a = sqrt(5), as in He et al.

    Args:
        hidden: D.
        config: Width, activation, scale, dropout, norm.
        device: Where the parameters live.
        generator: Draws the initial values; zeros without one.
    """

    def __init__(
        self, hidden: int, config: BottleneckConfig, device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        width, bound = config.width_at(hidden), 1 / math.sqrt(hidden)
        down = torch.zeros(width, hidden)
        if generator is not None:
            down.uniform_(-bound, bound, generator=generator)
        self.down, self.down_bias = nn.Parameter(down.to(device)), nn.Parameter(torch.zeros(width, device=device))
        self.up = nn.Parameter(torch.zeros(hidden, width, device=device))
        self.up_bias = nn.Parameter(torch.zeros(hidden, device=device))
        self.scale: float | nn.Parameter = 1.0
        self.scale = nn.Parameter(torch.ones(1, device=device)) if config.scale == "learned" else float(config.scale)
        self.norm = nn.LayerNorm(hidden, device=device) if config.norm else None
        self.activation, self.dropout = ACTIVATIONS[config.activation], config.dropout

    def change(self, x: Tensor) -> Tensor:
        """f(x), [..., D]."""
        if self.norm is not None:
            weight, bias = self.norm.weight.to(x.dtype), self.norm.bias.to(x.dtype)
            x = F.layer_norm(x, self.norm.normalized_shape, weight, bias, self.norm.eps)
        inner = self.activation(F.linear(x, self.down.to(x.dtype), self.down_bias.to(x.dtype)))
        inner = dropout(inner, self.dropout if self.training else 0.0)
        made = F.linear(inner, self.up.to(inner.dtype), self.up_bias.to(inner.dtype))
        return made if isinstance(self.scale, float) and self.scale == 1.0 else (made * self.scale).to(made.dtype)

    @property
    def products(self) -> int:
        """Multiplications that it costs per token, 2 D W."""
        return self.down.numel() + self.up.numel()

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse: an activation lies between the two maps. Says what that costs."""
        named = ((n, p) for n, p in host.named_parameters() if RESERVED not in n.split("."))
        of_host = sum(p.numel() for _, p in named if p.dim() == 2 and p.is_floating_point())
        share = f", {self.products / of_host:.1%} on top of the module that carries it" if of_host else ""
        width, hidden = self.down.shape
        raise NotMergeable(
            f"a bottleneck adapter has an activation between its two maps, so no weights of the model can take it in; "
            f"unmerged it costs 2 x {hidden} x {width} = {self.products:,} products per token at each of its sites"
            f"{share}",
            fix="use it unmerged, or train a method that merges, such as `lora` or `ia3`",
        )


class SequentialBottleneck(Bottleneck):
    """``y = h + f(h)`` on the output h of the map that ends a sublayer, before the residual is added (Houlsby et al.,
    2019, section 2.1).

    Deviations: the sublayer's own dropout, where it has one, comes after the adapter. ``norm`` gives the adapter a norm
    of its own; the model's own norm in front of it is ``form: after-norm``.
    """

    reads_output_only = True

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Add f(h)."""
        return output + self.change(output)


class ParallelBottleneck(Bottleneck):
    """``y = sublayer(x) + f(x)`` on a module that is called with x and returns y (He et al., 2022, table 1).

    x is what goes into the module, so in models that norm first it is the normed input.
    """

    adds = "parallel"

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Add f(x) to what the module returns, or to the first of several values."""
        change = self.change(args[0] if args else kwargs["hidden_states"])
        return (output[0] + change, *output[1:]) if isinstance(output, tuple) else output + change


class ResidualBottleneck(Bottleneck):
    """The same beside a module that is called with (inner, x) and returns ``LayerNorm(W inner + x)``, as BERT's are."""

    reads_residual_only = True

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Let ``x + f(x)`` go in as the residual."""
        if len(args) > 1:
            return (args[0], args[1] + self.change(args[1]), *args[2:]), kwargs
        x = kwargs["input_tensor"]
        return args, {**kwargs, "input_tensor": x + self.change(x)}


class NormedBottleneck(Bottleneck):
    """``y = LayerNorm(z + f(LayerNorm(z)))`` on the norm behind a sublayer, z being residual and sublayer added up.

    The best of the placements that Pfeiffer et al. (2021, AdapterFusion, appendix) searched, and their default since.
    """

    adds = "normed"

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Let ``z + f(LayerNorm(z))`` go into the norm."""
        z = args[0]
        normed = type(host).forward(host, z)  # its class's: DeBERTa has a norm of its own
        return (z + self.change(normed), *args[1:]), kwargs


_PARALLEL: Mapping[str, type[Bottleneck]] = {"around": ParallelBottleneck, "residual": ResidualBottleneck}


@method(
    "bottleneck",
    BottleneckConfig,
    learning_rate=1e-3,
    reason="a bottleneck adapter starts as the identity beside frozen weights; it takes a larger rate than those would",
)
def bottleneck(model: PreTrainedModel, config: BottleneckConfig, seed: int) -> Parts:
    """An adapter in every chosen sublayer of every chosen layer.

    Raises:
        UserError: The architecture is not known, a target matches no layer, or the bottleneck is wider than the model.
    """
    hidden = model.config.get_text_config().hidden_size
    if config.width_at(hidden) > hidden:
        raise UserError(
            f"a bottleneck of {config.width_at(hidden)} is wider than the model's {hidden}",
            where="adapter.width",
            fix=f"use a width of at most {hidden}, such as {max(1, hidden // DEFAULT_REDUCTION)}",
        )
    hosts = _HOSTS[config.form](model, config)
    chosen = {site.name for site in in_layers([site for site, _ in hosts], config.targets)}
    return Parts(
        placed=tuple(
            Placed(site, kind(hidden, config, next(site.host.parameters()).device, site_generator(seed, site)))
            for site, kind in hosts
            if site.name in chosen
        )
    )


def _sequential(model: PreTrainedModel, config: BottleneckConfig) -> list[tuple[Site, type[Bottleneck]]]:
    model_type, everything = model.config.model_type, sites(model)
    roles = {_LAST[part] for part in PLACEMENTS[config.placement]}
    if model_type not in ANATOMY and _only_patterns(config.targets):
        roles = {"linear"}  # the user names the maps; that they end a sublayer is up to the pattern
    found = [site for site in everything if site.role in roles]
    missing = sorted(roles - {site.role for site in found})
    if missing:
        raise UserError(
            f"it is not known which map of a `{model_type}` model is its {missing[0]}",
            where="adapter.placement",
            fix="name the maps that end the sublayers with `targets=re:PATTERN`"
            if model_type not in ANATOMY
            else "use `form=parallel`, or another `placement`",
        )
    return [(site, SequentialBottleneck) for site in found]


def _parallel(model: PreTrainedModel, config: BottleneckConfig) -> list[tuple[Site, type[Bottleneck]]]:
    found = [s for part in PLACEMENTS[config.placement] for s in sublayers(model, part)]
    return [(s.site, _PARALLEL[s.edge]) for s in found]


def _after_norm(model: PreTrainedModel, config: BottleneckConfig) -> list[tuple[Site, type[Bottleneck]]]:
    if model.config.model_type not in RESIDUAL:
        raise UserError(
            f"no norm behind the residual of a `{model.config.model_type}` model is known that an adapter could read",
            where="adapter.form",
            fix=f"use `form=sequential`; `after-norm` is for {', '.join(RESIDUAL)}",
        )
    found = [s.site for part in PLACEMENTS[config.placement] for s in sublayers(model, part)]
    return [
        (replace(site, name=f"{site.name}.LayerNorm", host=site.host.get_submodule("LayerNorm")), NormedBottleneck)
        for site in found
    ]


_HOSTS = {"sequential": _sequential, "parallel": _parallel, "after-norm": _after_norm}


def _only_patterns(targets: Any) -> bool:
    given = targets if isinstance(targets, tuple) else (targets,)
    return all(isinstance(target, str) and target.startswith("re:") for target in given)
