"""LoRA in `peft`'s format, both ways.

What `peft` has no word for is written in words that it has, with equal logits: a start that is taken off becomes a LoRA
of twice the rank, ``[B, B0] [A; -A0]``, and parts of a fused matrix become one LoRA whose B has zeros elsewhere. Read
back together with our own description, they become again what they were, bit by bit.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import MethodConfig, Parts, Placed, site_generator
from burnish.adapters.lora_config import LoraConfig, Plan, plans
from burnish.adapters.lora_init import RESIDUAL
from burnish.adapters.lora_layers import KINDS, DoraAdapter, LoraAdapter, is_plain_matrix, sides
from burnish.adapters.peft_format import OWN, refuse_misfit, refuse_unread, split_tensors
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models.anatomy import Site

FACTORS = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_embedding_A": "A", "lora_embedding_B": "B"}
MAGNITUDE = {"lora_magnitude_vector": "magnitude"}

UNREAD: dict[str, tuple[Any, ...]] = {
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, [], ()),
    "layer_replication": (None, []),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "use_qalora": (False, None),
    "use_bdlora": (None, False),
    "arrow_config": (None,),
    "velora_config": (None,),
    "monteclora_config": (None,),
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal", "pissa", "olora"),
}
"""What `peft` may say of a LoRA that would change its outputs and is not read here, with its harmless values."""

STARTS_OF_PEFT = {"gaussian": "gaussian", "eva": "eva", "orthogonal": "orthogonal", "pissa": "pissa", "olora": "olora"}


def to_peft(config: MethodConfig, placed: tuple[Placed, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`peft`'s configuration and tensors."""
    assert isinstance(config, LoraConfig)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for item in placed:
        adapter, name = item.adapter, item.site.name
        assert isinstance(adapter, LoraAdapter)
        A, B = written(adapter)
        keys = ("embedding_A", "embedding_B") if isinstance(item.site.host, nn.Embedding) else ("A.weight", "B.weight")
        tensors |= {f"{name}.lora_{keys[0]}": A, f"{name}.lora_{keys[1]}": B}
        if isinstance(adapter, DoraAdapter):
            tensors[f"{name}.lora_magnitude_vector"] = adapter.magnitude
        ranks[name] = len(A)
        alphas[name] = _alpha(adapter.scale * (math.sqrt(len(A)) if config.rslora else len(A)))
    rank, alpha = _usual(ranks.values(), config.rank), _usual(alphas.values(), config.resolved_alpha)
    values: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": config.dropout,
        "use_rslora": config.rslora,
        "use_dora": config.dora,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(item.site.host, Conv1D) for item in placed),
        "init_lora_weights": True,
        "rank_pattern": {name: r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {name: a for name, a in alphas.items() if a != alpha},
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    return values, tensors


def _usual(values: Any, preferred: Any) -> Any:
    """The most common value; of several the configured one."""
    counted = Counter(values)
    return max(counted, key=lambda v: (counted[v], v == preferred)) if counted else preferred


def _alpha(value: float) -> float | int:
    """Alpha without the rounding of ``alpha / rank * rank``; whole numbers as such, as `peft` writes them."""
    near = round(value, 9)
    value = near if math.isclose(near, value, rel_tol=1e-12) else value
    return int(value) if value.is_integer() else value


def written(adapter: LoraAdapter) -> tuple[Tensor, Tensor]:
    """The factors of one LoRA that computes what the adapter does."""
    if adapter.A0 is not None and adapter.B0 is not None:
        return torch.cat([adapter.A, -adapter.A0]), torch.cat([adapter.B, adapter.B0], 1)
    return adapter.factors()


def from_peft(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[MethodConfig, Parts]:
    """From `peft`'s configuration and tensors to ours; ``values[OWN]`` may hold our own description beside them.

    Raises:
        UserError: Something is asked for that we do not read, or the tensors do not fit.
    """
    refuse_unread(values, UNREAD, "LoRA")
    config = _config(values)
    names = {**FACTORS, **MAGNITUDE} if config.dora else FACTORS
    found = split_tensors(model, tensors, names, values)
    read = [_read(site, config, values, factors) for site, factors in found]
    own = _as_described(model, values.get(OWN), config, read, [factors for _, factors in found])
    if own is not None:
        return own
    placed = tuple(_filled(config, plan, factors) for plan, (_, factors) in zip(read, found, strict=True))
    return config, Parts(placed=placed)


def _config(values: Mapping[str, Any]) -> LoraConfig:
    def patterns(key: str) -> dict[str, Any]:
        return {rf"re:^(?:.*\.)?(?:{k})$": v for k, v in (values.get(key) or {}).items()}

    given = {
        "rank": values.get("r"),
        "alpha": values.get("lora_alpha"),
        "dropout": values.get("lora_dropout") or 0.0,
        "rslora": bool(values.get("use_rslora")),
        "dora": bool(values.get("use_dora")),
        "init": STARTS_OF_PEFT.get(str(values.get("init_lora_weights")), "kaiming"),
        "targets": targets_of(values.get("target_modules")),
        "rank_pattern": patterns("rank_pattern"),
        "alpha_pattern": patterns("alpha_pattern"),
    }
    return build(LoraConfig, given, where="adapter_config.json")


def targets_of(peft_targets: Any) -> str | tuple[str, ...]:
    """`target_modules` in the language of our targets."""
    if isinstance(peft_targets, str):  # a pattern for the whole name
        return peft_targets if peft_targets == "all-linear" else f"re:^(?:{peft_targets})$"
    return tuple(sorted(peft_targets or ())) or "all-linear"


def _read(site: Site, config: LoraConfig, values: Mapping[str, Any], factors: Mapping[str, Tensor]) -> Plan:
    """Rank and scale that `peft`'s rules give to a site, held against its tensors."""
    shape = sides(site.host)
    if shape is None:
        raise UserError(
            f"`{site.name}` is a {type(site.host).__name__}, which cannot carry LoRA",
            where="adapter_model.safetensors",
            fix="load the adapter onto the base it was trained on",
        )
    rank = int(_by_pattern(values.get("rank_pattern"), site.name, config.rank))
    alpha = _by_pattern(values.get("alpha_pattern"), site.name, config.resolved_alpha)
    wanted = {"A": (rank, shape[0]), "B": (shape[1], rank), "magnitude": (shape[1],)}
    refuse_misfit(site, factors, wanted)
    if config.dora and not is_plain_matrix(site.host):
        raise UserError(
            f"DoRA reads the base's weights, and those of `{site.name}` are packed into few bits",
            where="adapter_config.json",
            fix="load the base in bfloat16 or float32",
        )
    return Plan(site, rank, config.scale_at(rank, alpha))


def _by_pattern(pattern: Mapping[str, Any] | None, name: str, usual: float) -> float:
    """`peft`'s rule: a key is a regular expression for the end of a name, and the first that fits counts."""
    return next((v for k, v in (pattern or {}).items() if re.match(rf"(.*\.)?({k})$", name)), usual)


def _filled(config: LoraConfig, plan: Plan, factors: Mapping[str, Tensor]) -> Placed:
    """The adapter of a site, with the tensors in it. `peft` makes the starts of `pissa` and `olora` anew, so do we."""
    site, again = plan.site, config.init in RESIDUAL
    if config.init == "olora" and isinstance(site.host, Conv1D):
        raise UserError(
            f"`peft` decomposes the transpose of a Conv1D such as `{site.name}` under `init_lora_weights: olora`",
            where="adapter_config.json",
            fix="load it with `peft`, or merge it there first",
        )
    generator = site_generator(0, site) if again else None
    adapter = KINDS[config.dora, False](
        site.host, plan.rank, plan.scale, config.dropout, generator, init=config.init if again else "kaiming"
    )
    _copy(adapter, factors)
    return Placed(site, adapter)


@torch.no_grad()
def _copy(adapter: LoraAdapter, tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        getattr(adapter, name).copy_(tensor)


def _as_described(
    model: PreTrainedModel,
    given: Any,
    read: LoraConfig,
    found: Sequence[Plan],
    tensors: Sequence[Mapping[str, Tensor]],
) -> tuple[LoraConfig, Parts] | None:
    """What our own description says, where it agrees with what `peft` would make of the files; else None."""
    if not isinstance(given, LoraConfig):
        return None
    if (given.dora, given.rslora, given.dropout) != (read.dora, read.rslora, read.dropout):
        return None
    try:
        planned = plans(model, given, [plan.site for plan in found])
    except UserError:
        return None
    placed = []
    for wanted, plan, factors in zip(planned, found, tensors, strict=True):
        unfolded = _unfolded(given, wanted, plan, factors)
        if unfolded is None or not math.isclose(wanted.scale, plan.scale, rel_tol=1e-9):
            return None
        adapter = KINDS[given.dora, bool(wanted.spans)](
            plan.site.host,
            unfolded["A"].shape[0] // max(1, len(wanted.spans)),
            wanted.scale,
            given.dropout,
            init=given.init,
            spans=wanted.spans,
        )
        _copy(adapter, unfolded)
        placed.append(Placed(plan.site, adapter))
    return given, Parts(placed=tuple(placed))


def _unfolded(
    given: LoraConfig, wanted: Plan, plan: Plan, factors: Mapping[str, Tensor]
) -> Mapping[str, Tensor] | None:
    """``written`` the other way round; None where the tensors cannot have come from it."""
    A, B = factors["A"], factors["B"]
    if wanted.spans:
        blocks = [B[rows[0] : rows[1]] for rows in wanted.spans]
        parts = [b[:, i * wanted.rank : (i + 1) * wanted.rank] for i, b in enumerate(blocks)]
        whole = sum(int(p.count_nonzero()) for p in parts) == int(B.count_nonzero())
        fits = whole and plan.rank == wanted.rank * len(parts)
        return {**factors, "B": torch.cat(parts)} if fits else None
    fold = 2 if given.init in RESIDUAL else 1
    rank, rest = divmod(plan.rank, fold)
    if rest or (rank != wanted.rank and given.init_options.rho == 1):
        return None
    if fold == 1:
        return factors
    return {**factors, "A": A[:rank], "A0": -A[rank:], "B": B[:, :rank], "B0": B[:, rank:]}
