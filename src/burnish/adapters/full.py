"""Full tuning: the base model's own weights are trained, all of them or those that a pattern names."""

from __future__ import annotations

import re
from typing import Literal

import torch
from transformers import PreTrainedModel

from burnish.adapters.base import RESERVED, MethodConfig, Parts, method
from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.models.anatomy import sites


class FullConfig(MethodConfig):
    """Train the model's own weights; the result is a whole model, not an adapter."""

    method: Literal["full"] = "full"
    targets: str | tuple[str, ...] = "all"
    """Which weights: `all`, a part of a dotted name such as `lm_head` or `layers.29`, or `re:PATTERN` searched for in
    full parameter names; one or a list. Everything else stays frozen."""


@method(
    "full",
    FullConfig,
    learning_rate=2e-5,
    reason="full tuning moves every pre-trained weight; about a tenth of LoRA's learning rate keeps what they know",
    format="model",
)
def full(model: PreTrainedModel, config: FullConfig, seed: int) -> Parts:
    """Train the weights that ``targets`` name. Of weights that are tied, naming one trains them all.

    Raises:
        UserError: A target matches nothing, or the weights are kept in fp16 or bf16, where small updates are lost.
    """
    aliases: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if RESERVED not in name.split("."):
            aliases.setdefault(id(parameter), []).append(name)
    targets = (config.targets,) if isinstance(config.targets, str) else config.targets
    chosen: set[str] = set()
    for target in targets:
        hit = {names[0] for names in aliases.values() if any(_matches(target, name) for name in names)}
        if not hit:
            parts = {part for names in aliases.values() for name in names for part in name.split(".")}
            raise UserError(
                f"`{target}` matches no weight of this model",
                where="adapter.targets",
                fix=suggestion(target.removeprefix("re:"), {p for p in parts if not p.isdigit()}),
            )
        chosen |= hit
    own = {names[0]: model.get_parameter(names[0]) for names in aliases.values()}
    half = [name for name in own if name in chosen and own[name].dtype in (torch.float16, torch.bfloat16)]
    if half:
        raise UserError(
            f"{len(half)} weights to be trained are kept in {str(own[half[0]].dtype).removeprefix('torch.')}, "
            "where small updates are rounded away",
            where=half[0],
            fix="load the model in float32; autocast (`train.precision`) still computes in half precision",
        )
    ids = {id(own[name]) for name in chosen}
    acting = tuple(s for s in sites(model) if any(id(p) in ids for p in s.host.parameters(recurse=False)))
    return Parts(base=tuple(name for name in own if name in chosen), sites=acting)


def _matches(target: str, name: str) -> bool:
    if target == "all":
        return True
    if target.startswith("re:"):
        try:
            return re.search(target.removeprefix("re:"), name) is not None
        except re.error as error:
            raise UserError(f"`{target}` is not a pattern: {error}", where="adapter.targets") from None
    return f".{target}." in f".{name}."
