"""LoRA: a low-rank update beside a frozen matrix (Hu et al., 2022, arXiv:2106.09685).

Shapes: D_in and D_out the sides of the host's matrix, R rank, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import (
    Adapter,
    MethodConfig,
    NotMergeable,
    Parts,
    Placed,
    method,
    site_generator,
    slot_of,
)
from burnish.adapters.peft_format import split_tensors
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models.anatomy import Site, select
from burnish.models.maps import hooked, map_of, plain
from burnish.ops.projections import Projection


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

    @property
    def resolved_alpha(self) -> float:
        """The configured alpha, or its default."""
        if self.alpha is not None:
            return self.alpha
        return 8.0 if self.rslora else 2.0 * self.rank

    @property
    def scale(self) -> float:
        """Factor s on the update."""
        return self.resolved_alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def sides(host: nn.Module) -> tuple[int, int] | None:
    """(D_in, D_out) of a host's matrix, also where k-bit weights are stored in another shape; None for no matrix."""
    if isinstance(host, nn.Linear):
        return host.in_features, host.out_features
    if isinstance(host, Conv1D):
        return host.nx, host.nf
    if isinstance(host, nn.Embedding):
        return host.num_embeddings, host.embedding_dim
    return None


class LoraAdapter(Adapter):
    """``h = W x + s B A dropout(x)`` at a linear or Conv1D host; ``h = W[:, i] + s B A[:, i]`` at an embedding.

    A is [R, D_in] and B is [D_out, R] (for an embedding D_in is V). Both are kept in fp32 and cast to the format of the
    activations for the products: an update of 1e-5 relative to its weight is below bf16's resolution of 2^-8.

    Args:
        host: The module that carries the matrix.
        rank: R.
        scale: s.
        dropout: Dropout rate.
        generator: Draws the initial values. As in ``peft``, one factor is Kaiming-uniform with a = sqrt(5) (A) and the
            other zero (B); at an embedding A is zero and B standard normal. Zeros without one.
    """

    def __init__(
        self, host: nn.Module, rank: int, scale: float, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        shape = sides(host)
        if shape is None:
            raise TypeError(f"a {type(host).__name__} has no matrix")
        self.scale, self.dropout = scale, dropout
        inner, outer = shape
        is_table = isinstance(host, nn.Embedding)
        A, B = torch.zeros(rank, inner), torch.zeros(outer, rank)
        if generator is not None and is_table:
            B.normal_(generator=generator)
        elif generator is not None:
            bound = 1 / math.sqrt(inner)  # Kaiming-uniform with a = sqrt(5)
            A.uniform_(-bound, bound, generator=generator)
        device = next(host.parameters()).device
        self.A, self.B = nn.Parameter(A.to(device)), nn.Parameter(B.to(device))

    @property
    def rank(self) -> int:
        """R."""
        return self.A.shape[0]

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Add the update to the host's output."""
        x = args[0] if args else next(iter(kwargs.values()))
        if isinstance(host, nn.Embedding):
            inner = F.embedding(x, self.A.t()).to(output.dtype)
            scale = self.scale * getattr(host, "embed_scale", 1.0)  # Gemma's tables scale what they return
            return output + F.linear(inner, self.B.to(output.dtype)) * scale
        x = F.dropout(x, self.dropout, self.training) if self.dropout else x
        inner = F.linear(x, self.A.to(x.dtype))
        inner = inner.reshape(-1, self.rank).to(output.dtype)
        # one product that adds to the output: scaling and adding apart would each pass over [N, D_out] once more
        flat = output.reshape(-1, output.shape[-1])
        return torch.addmm(flat, inner, self.B.to(output.dtype).t(), alpha=self.scale).view_as(output)

    def delta(self, host: nn.Module) -> Tensor:
        """The update in the layout of the host's weight, fp32."""
        delta = (self.B.float() @ self.A.float()) * self.scale
        return delta.t() if isinstance(host, (Conv1D, nn.Embedding)) else delta

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse weights that are not plain floating-point matrices."""
        weight = host.weight
        if not isinstance(weight, Tensor) or not weight.is_floating_point() or weight.dim() != 2:
            raise NotMergeable(
                f"a {type(host).__name__} with {getattr(weight, 'dtype', 'no')} weights cannot take the update",
                fix="merge into the base in float32 or bfloat16",
            )

    @torch.no_grad()
    def merge_(self, host: nn.Module) -> None:
        """``W += s B A``, computed in fp32 and rounded once to the format of W."""
        self.check_mergeable(host)
        weight: Tensor = host.weight  # type: ignore[assignment]
        weight.copy_((weight.float() + self.delta(host)).to(weight.dtype))


def projection_of(host: nn.Module) -> Projection | None:
    """What a linear layer computes with the adapters in use, where that is its map and at most one LoRA; else None."""
    slot = slot_of(host)
    if slot is None:
        return plain(host)
    active = slot.active()
    base = map_of(host)
    if base is None or hooked(host) != len(slot.handles) or len(active) > 1:
        return None
    if not active:
        return base
    adapter = active[0]
    if type(adapter) is not LoraAdapter or (adapter.dropout and adapter.training):
        return None
    return replace(base, A=adapter.A, B=adapter.B, scale=adapter.scale)


def _to_peft(config: MethodConfig, placed: tuple[Placed, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    assert isinstance(config, LoraConfig)
    tensors: dict[str, Tensor] = {}
    for item in placed:
        adapter, name = item.adapter, item.site.name
        assert isinstance(adapter, LoraAdapter)
        if isinstance(item.site.host, nn.Embedding):
            tensors |= {f"{name}.lora_embedding_A": adapter.A, f"{name}.lora_embedding_B": adapter.B}
        else:
            tensors |= {f"{name}.lora_A.weight": adapter.A, f"{name}.lora_B.weight": adapter.B}
    alpha = config.resolved_alpha
    values: dict[str, Any] = {
        "r": config.rank,
        "lora_alpha": int(alpha) if alpha.is_integer() else alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": False,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(item.site.host, Conv1D) for item in placed),
        "init_lora_weights": True,
        "rank_pattern": {},
        "alpha_pattern": {},
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    return values, tensors


# What `peft` may say of a LoRA that would change its outputs and is not read here, with its harmless values.
UNREAD: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, [], ()),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}


def _from_peft(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[MethodConfig, Parts]:
    for key, harmless in UNREAD.items():
        if key in values and values[key] not in harmless:
            raise UserError(
                f"the adapter uses `{key}: {values[key]!r}`, which Burnish's LoRA does not read",
                where="adapter_config.json",
                fix="load it with `peft`, or merge it there first",
            )
    given = {
        "rank": values.get("r"),
        "alpha": values.get("lora_alpha"),
        "dropout": values.get("lora_dropout") or 0.0,
        "rslora": bool(values.get("use_rslora")),
        "targets": _targets(values.get("target_modules")),
    }
    config = build(LoraConfig, given, where="adapter_config.json")
    found = split_tensors(model, tensors, PEFT_NAMES, values)
    return config, Parts(placed=tuple(Placed(site, _filled(site, config, factors)) for site, factors in found))


def _targets(peft_targets: Any) -> str | tuple[str, ...]:
    if isinstance(peft_targets, str):  # a pattern for the whole name
        return peft_targets if peft_targets == "all-linear" else f"re:^(?:{peft_targets})$"
    return tuple(sorted(peft_targets or ())) or "all-linear"


PEFT_NAMES = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
}


def _filled(site: Site, config: LoraConfig, factors: Mapping[str, Tensor]) -> LoraAdapter:
    shape = sides(site.host)
    if shape is None:
        raise UserError(
            f"`{site.name}` is a {type(site.host).__name__}, which cannot carry LoRA",
            where="adapter_model.safetensors",
            fix="load the adapter onto the base it was trained on",
        )
    wanted = {"A": (config.rank, shape[0]), "B": (shape[1], config.rank)}
    for key, tensor in factors.items():
        if tuple(tensor.shape) != wanted[key]:
            raise UserError(
                f"the adapter belongs to another base: {key} of `{site.name}` is {tuple(tensor.shape)}, "
                f"this model needs {wanted[key]}",
                where="adapter_model.safetensors",
                fix="load the adapter onto the base that its adapter_config.json names",
            )
    adapter = LoraAdapter(site.host, config.rank, config.scale, config.dropout)
    with torch.no_grad():
        adapter.A.copy_(factors["A"])
        adapter.B.copy_(factors["B"])
    return adapter


@method(
    "lora",
    LoraConfig,
    learning_rate=2e-4,
    reason="LoRA starts at zero and trains few weights, so it takes about ten times the learning rate of full tuning",
    format="peft",
    peft_type="LORA",
    to_peft=_to_peft,
    from_peft=_from_peft,
)
def lora(model: PreTrainedModel, config: LoraConfig, seed: int) -> Parts:
    """A low-rank update at every target.

    Raises:
        UserError: A target matches nothing or has no matrix, or the rank exceeds the smaller side of one.
    """
    sites = select(model, list(config.targets) if isinstance(config.targets, tuple) else config.targets)
    _refuse_unfit(sites, config.rank)
    return Parts(
        placed=tuple(
            Placed(s, LoraAdapter(s.host, config.rank, config.scale, config.dropout, site_generator(seed, s)))
            for s in sites
        )
    )


def _refuse_unfit(sites: list[Site], rank: int) -> None:
    bare = [s for s in sites if sides(s.host) is None]
    if bare:
        raise UserError(
            f"`{bare[0].name}` is a {type(bare[0].host).__name__}; LoRA needs a linear, Conv1D or embedding layer",
            where="adapter.targets",
            fix="leave it out of the targets",
        )
    small = [(s, min(shape)) for s in sites if (shape := sides(s.host)) and min(shape) < rank]
    if small:
        site, least = min(small, key=lambda pair: pair[1])
        raise UserError(
            f"rank {rank} is above the smaller side of {len(small)} of {len(sites)} targets; "
            f"`{site.name}` is {' x '.join(map(str, sides(site.host) or ()))}",
            where="adapter.rank",
            fix=f"use a rank of at most {least}, or leave these targets out",
        )
