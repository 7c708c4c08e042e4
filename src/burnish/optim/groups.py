"""Parameter groups, and the optimiser over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from burnish.core.errors import UserError
from burnish.optim.adamw import OPTIMIZERS
from burnish.optim.config import OptimConfig, OptimizerName
from burnish.optim.schedule import resolved_learning_rate

Named = Sequence[tuple[str, nn.Parameter]]

Scale = float | tuple[float, ...]

HALF = (torch.float16, torch.bfloat16)


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices, never to biases, norms and other vectors."""
    return parameter.dim() >= 2


def parameter_groups(
    named: Named, weight_decay: float, rate_scales: Mapping[str, Scale] | None = None
) -> list[dict[str, Any]]:
    """Group parameters by weight decay and by their factor on the learning rate; order is kept within a group.

    Args:
        named: Names and parameters that are trained.
        weight_decay: Decay of the matrices.
        rate_scales: Factor on the learning rate by parameter name, 1 where a name is absent; of a run in stages one
            for each. The loop reads it from each group as ``rate_scale``, which a stage sets from ``stage_scales``.

    Raises:
        ValueError: A factor names a parameter that is not trained.
    """
    scales = dict(rate_scales or {})
    unknown = sorted(set(scales) - {name for name, _ in named})
    if unknown:
        raise ValueError(f"learning-rate factors for parameters that are not trained: {', '.join(unknown[:5])}")
    groups: dict[tuple[bool, Scale], dict[str, Any]] = {}
    for name, parameter in named:
        key = (decays(parameter), scales.get(name, 1.0))
        first = key[1][0] if isinstance(key[1], tuple) else key[1]
        fresh = {"params": [], "weight_decay": weight_decay if key[0] else 0.0, "rate_scale": first}
        group = groups.setdefault(key, fresh)
        if isinstance(key[1], tuple):
            group["stage_scales"] = key[1]
        group["params"].append(parameter)
    return list(groups.values())


def build_optimizer(
    named: Named,
    config: OptimConfig,
    learning_rate: float | None = None,
    *,
    rate_scales: Mapping[str, Scale] | None = None,
    kind: OptimizerName = "adamw",
) -> torch.optim.Optimizer:
    """AdamW over the trained parameters.

    Args:
        named: Names and parameters that are trained.
        config: Weight decay, betas, eps, and the learning rate if it is given there.
        learning_rate: The method's default learning rate.
        rate_scales: Factor on the learning rate by parameter name.
        kind: In which form AdamW keeps its moments.

    Raises:
        UserError: Nothing is trained, or a trained parameter is kept in fp16 or bf16, where an update that is small
            beside its weight is rounded away.
    """
    if not named:
        raise UserError("nothing is trained", where="adapter", fix="name targets that the model has")
    half = [(name, p.dtype) for name, p in named if p.dtype in HALF]
    if half:
        raise UserError(
            f"{len(half)} trained tensors are kept in {str(half[0][1]).removeprefix('torch.')}, "
            "where small updates are rounded away",
            where=half[0][0],
            fix="keep trained weights in float32 and let autocast convert them for the products",
        )
    groups = parameter_groups(named, config.weight_decay, rate_scales)
    rate = resolved_learning_rate(config, learning_rate)
    for group in groups:
        group["lr"] = rate * group["rate_scale"]
    return OPTIMIZERS[kind](groups, lr=rate, betas=config.betas, eps=config.eps)
