"""AdaLoRA in `peft`'s format, both ways: what is pruned is left out, and `rank_pattern` says what that was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import MethodConfig, Placed
from burnish.adapters.lora_layers import sides
from burnish.adapters.lora_peft import UNREAD, targets_of
from burnish.adapters.peft_format import OWN, refuse_misfit, refuse_unread, split_tensors
from burnish.core.config import build
from burnish.models.anatomy import Site

C = TypeVar("C", bound=MethodConfig)

HARMLESS = {
    key: (*UNREAD.get(key, ()), False, None)
    for key in ("bias", "modules_to_save", "lora_bias", "use_dora", "use_rslora")
}
NAMES = {"lora_A": "A", "lora_B": "B", "lora_E": "E"}


def to_peft_values(
    config: Any, placed: Sequence[Placed], found: Mapping[str, tuple[Mapping[str, Tensor], Tensor]]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`peft`'s configuration and tensors, from what is kept of each site and which of its rows that is."""
    tensors = {f"{name}.lora_{key}": t for name, (factors, _) in found.items() for key, t in factors.items()}
    pruned = any(not bool(rows.all()) for _, rows in found.values())
    alpha = config.resolved_alpha
    values: dict[str, Any] = {
        "init_r": config.rank,
        "target_r": config.target_rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": config.dropout,
        "beta1": config.beta1,
        "beta2": config.beta2,
        "orth_reg_weight": config.orthogonality,
        "deltaT": config.prune_every_steps,
        "total_step": 1,  # `peft` wants one, and reads it only to go on training
        "rank_pattern": {f"{n}.lora_E": rows.tolist() for n, (_, rows) in found.items()} if pruned else None,
        "bias": "none",
        "fan_in_fan_out": any(isinstance(item.site.host, Conv1D) for item in placed),
        "init_lora_weights": True,
        "modules_to_save": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    return values, tensors


def from_peft_values(
    kind: type[C], model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[C, list[tuple[Site, dict[str, Tensor]]]]:
    """Our configuration, and the tensors of each site, from `peft`'s.

    Raises:
        UserError: Something is asked for that we do not read, or a tensor does not fit.
    """
    refuse_unread(values, HARMLESS, "AdaLoRA")
    given = {
        "rank": values.get("init_r"),
        "target_rank": min(values.get("target_r") or 1, values.get("init_r") or 1),
        "alpha": values.get("lora_alpha"),
        "dropout": values.get("lora_dropout") or 0.0,
        "orthogonality": values.get("orth_reg_weight", 0.5),
        "beta1": values.get("beta1", 0.85),
        "beta2": values.get("beta2", 0.85),
        "prune_every_steps": values.get("deltaT") or 1,
        "targets": targets_of(values.get("target_modules")),
    }
    config = build(kind, given, where="adapter_config.json")
    found = split_tensors(model, tensors, NAMES, values)
    for site, factors in found:
        (inner, outer), rank = sides(site.host) or (0, 0), len(factors["E"])
        refuse_misfit(site, factors, {"A": (rank, inner), "B": (outer, rank), "E": (rank, 1)})
    own = values.get(OWN)
    if isinstance(own, kind) and _same(own, config):
        config = own
    return config, found


def _same(own: Any, read: Any) -> bool:
    """Whether our own description means what the files say."""
    return (own.rank, own.target_rank, own.scale, own.dropout) == (
        read.rank,
        read.target_rank,
        read.scale,
        read.dropout,
    )
