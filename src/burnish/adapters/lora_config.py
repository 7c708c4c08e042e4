"""What a recipe says of LoRA, and what that means for each matrix: its rank, its scale, its parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, model_validator
from transformers import PreTrainedModel

from burnish.adapters.base import MethodConfig
from burnish.adapters.lora_init import ANY_HOST
from burnish.adapters.lora_layers import Spans
from burnish.core.config import Config
from burnish.core.errors import UserError
from burnish.models.anatomy import Site, select

Part = Literal["q", "k", "v"]
InitName = Literal["kaiming", "gaussian", "orthogonal", "pissa", "olora", "eva", "lora_ga", "loftq"]


class InitOptions(Config):
    """Settings of the ways in which LoRA's factors can start."""

    iterations: int | None = Field(None, ge=0)
    """With `init: pissa` or `loftq`: so many iterations of a fast, approximate decomposition in place of the exact
    one."""
    batches: int = Field(4, ge=1)
    """With `init: eva` or `lora_ga`: how many micro-batches of the training rows are looked at."""
    rho: float = Field(1.0, ge=1, allow_inf_nan=False)
    """With `init: eva`: ranks are dealt out by the share of the inputs' variance that they explain, up to `rho` times
    `rank` for a matrix; their sum stays. 1 leaves every matrix its rank."""
    gamma: float = Field(16.0, gt=0, allow_inf_nan=False)
    """With `init: lora_ga`: factors are scaled by D_out^(1/4) / sqrt(gamma), the paper's gamma."""


OPTIONS_OF: dict[str, set[str]] = {
    "pissa": {"iterations"},
    "eva": {"batches", "rho"},
    "lora_ga": {"batches", "gamma"},
    "loftq": {"iterations"},
}
"""Which settings mean something, by start."""


class LoraConfig(MethodConfig):
    """Low-rank updates of matrices; the matrices themselves stay frozen."""

    method: Literal["lora"] = "lora"
    rank: int = Field(16, ge=1)
    """Rank R of the update: each matrix gets R * (D_in + D_out) new parameters."""
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """The update is scaled by alpha / rank (alpha / sqrt(rank) with `rslora`). Without it 2 * rank, so that the scale
    is 2 at every rank and the learning rate carries over; with `rslora` 8, which is scale 2 at rank 16."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the update while training."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank), which keeps large ranks learning (Kalajdzievski, 2023)."""
    targets: str | tuple[str, ...] = "all-linear"
    """Where: `all-linear` (every linear map inside the layers, so not the head), roles such as `attention` or `mlp.up`,
    module names such as `q_proj`, or `re:PATTERN` searched for in full names; one or a list."""
    dora: bool = False
    """DoRA (Liu et al., 2024): every row of the tuned matrix keeps a trained length of its own, and the update turns
    it. Costs a pass over each matrix in every forward pass; merged it costs nothing."""
    b_rate_scale: float = Field(1.0, gt=0, allow_inf_nan=False)
    """LoRA+ (Hayou et al., 2024): the learning rate of B as a factor of that of A; the paper recommends 16, with a
    lower learning rate."""
    init: InitName = "kaiming"
    """How the factors start. `kaiming`, `gaussian`: A random, B zero. `orthogonal`: both random, their product zero.
    `pissa`: the largest singular values and vectors of the matrix (Meng et al., 2024). `olora`: its QR decomposition
    (Büyükakyüz, 2024). `eva`: the main directions of the inputs, from training rows (Paischer et al., 2024). `lora_ga`:
    the main directions of the gradient, from training rows (Wang et al., 2024). `loftq`: on a base of 4 bits, the main
    part of what they lose of the matrix (Li et al., 2023)."""
    init_options: InitOptions = Field(default_factory=InitOptions)
    """Settings of a start; each belongs to one of them."""
    rank_pattern: dict[str, int] = Field(default_factory=dict)
    """Other ranks for some of the targets, such as `{mlp.down: 32}`, in the language of `targets`; the first key that
    names a module counts."""
    alpha_pattern: dict[str, float] = Field(default_factory=dict)
    """Other alphas for some of the targets, likewise."""
    fused_parts: tuple[Part, ...] = ()
    """On matrices that hold q, k and v side by side (GPT-2's `c_attn`, ModernBERT's `Wqkv`, Phi-3's `qkv_proj`): which
    of them get an update, each a low-rank one of its own. Empty for one update of the whole matrix."""

    @model_validator(mode="after")
    def _no_contradiction(self) -> LoraConfig:
        changed = {name for name, value in InitOptions() if value != getattr(self.init_options, name)}
        idle = sorted(changed - OPTIONS_OF.get(self.init, set()))
        if idle:
            raise ValueError(f"`init_options.{idle[0]}` has no meaning with `init: {self.init}`; leave it out")
        if self.fused_parts and self.init not in ANY_HOST:
            raise ValueError(f"`init: {self.init}` is for whole matrices; leave out `fused_parts` or choose `kaiming`")
        if len(set(self.fused_parts)) != len(self.fused_parts):
            raise ValueError("`fused_parts` names a part twice; name each once")
        if self.init_options.rho != 1 and self.rank_pattern:
            raise ValueError("`init_options.rho` deals out ranks, and `rank_pattern` sets them; use one of them")
        low = [key for key, value in {**self.rank_pattern, **self.alpha_pattern}.items() if not 0 < value < math.inf]
        if low:
            raise ValueError(f"the value for `{low[0]}` must be above 0")
        return self

    @property
    def resolved_alpha(self) -> float:
        """The configured alpha, or its default."""
        return self.alpha_at(self.rank)

    @property
    def scale(self) -> float:
        """Factor s on the update."""
        return self.scale_at(self.rank)

    def alpha_at(self, rank: int) -> float:
        """Alpha at another rank."""
        if self.alpha is not None:
            return self.alpha
        return 8.0 if self.rslora else 2.0 * rank

    def scale_at(self, rank: int, alpha: float | None = None) -> float:
        """Factor s at another rank, and with another alpha."""
        alpha = self.alpha_at(rank) if alpha is None else alpha
        return alpha / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True)
class Plan:
    """What a configuration means for one matrix.

    Attributes:
        site: Where.
        rank: R.
        scale: s.
        spans: Rows of the parts that get an update; empty for the whole matrix.
    """

    site: Site
    rank: int
    scale: float
    spans: Spans = ()


def plans(model: PreTrainedModel, config: LoraConfig, sites: Sequence[Site]) -> list[Plan]:
    """Rank, scale and parts of every site.

    Raises:
        UserError: A pattern names none of the sites, or parts are asked of a matrix whose layout is not known.
    """
    ranks = by_site(model, sites, config.rank_pattern, "adapter.rank_pattern")
    alphas = by_site(model, sites, config.alpha_pattern, "adapter.alpha_pattern")
    found = []
    for site in sites:
        rank = int(ranks.get(site.name, config.rank))
        spans = fused_spans(model, site, config.fused_parts)
        found.append(Plan(site, rank, config.scale_at(rank, alphas.get(site.name)), spans))
    if config.fused_parts and not any(plan.spans for plan in found):
        raise UserError(
            f"none of the {len(found)} targets is a matrix that holds q, k and v side by side",
            where="adapter.fused_parts",
            fix="leave it out, and name the projections in `targets`",
        )
    return found


def by_site(
    model: PreTrainedModel, sites: Iterable[Site], pattern: Mapping[str, float], where: str
) -> dict[str, float]:
    """The value that a pattern gives to each site it names; the first key counts, as in `peft`.

    Raises:
        UserError: A key names no module, or none of the sites.
    """
    names, values = {site.name for site in sites}, dict[str, float]()
    for key, value in pattern.items():
        try:
            hit = {site.name for site in select(model, key)}
        except UserError as error:
            raise UserError(f"`{key}` matches no module of this model", where=where, fix=error.fix) from None
        if not hit & names:
            raise UserError(
                f"`{key}` matches none of the targets", where=where, fix="add it to `adapter.targets`, or leave it out"
            )
        values |= {name: value for name in hit & names if name not in values}
    return values


def _thirds(config: Any) -> tuple[int, int, int]:
    width = config.hidden_size
    return width, width, width


def _phi3(config: Any) -> tuple[int, int, int]:
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head
    return config.num_attention_heads * head, keys, keys


FUSED: Mapping[str, Callable[[Any], tuple[int, int, int]]] = {"gpt2": _thirds, "modernbert": _thirds, "phi3": _phi3}
"""Rows of q, k and v in a fused matrix that holds one after the other, by model type. GPT-NeoX, Bloom and Falcon
interleave them by head, so their parts are no spans."""


def fused_spans(model: PreTrainedModel, site: Site, parts: Sequence[str]) -> Spans:
    """Rows of the wanted parts of a fused matrix; empty for other matrices.

    Raises:
        UserError: The layout of this model's fused matrix is not known.
    """
    if not parts or site.role != "attention.qkv":
        return ()
    kind = model.config.model_type
    if kind not in FUSED:
        raise UserError(
            f"the rows of q, k and v in `{site.name}` of a `{kind}` model do not lie side by side",
            where="adapter.fused_parts",
            fix="leave it out, which adapts the whole matrix",
        )
    q, k, v = FUSED[kind](model.config)
    rows = {"q": (0, q), "k": (q, q + k), "v": (q + k, q + k + v)}
    return tuple(rows[part] for part in ("q", "k", "v") if part in parts)
