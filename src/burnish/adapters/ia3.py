"""(IA)^3: learned vectors that scale keys, values and inner activations (Liu et al., 2022, arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import MethodConfig, Parts, Placed, method
from burnish.adapters.peft_format import split_tensors
from burnish.adapters.vectors import ScaledInput, ScaledOutput, device_of, sides_of
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.models.anatomy import ANATOMY, Site, select, sites

_SCALED = ("attention.key", "attention.value", "attention.qkv", "mlp.down")


class Ia3Config(MethodConfig):
    """Vectors that start at one and scale what the frozen maps return: a few numbers per layer, and mergeable."""

    method: Literal["ia3"] = "ia3"
    targets: str | tuple[str, ...] = "auto"
    """Which maps: `auto` (keys, values and the end of the feed-forward), or roles, module names and `re:PATTERN` as for
    LoRA; one or a list. Of a map that makes queries, keys and values in one, all three are scaled, as in `peft`."""
    feedforward: str | tuple[str, ...] = "mlp.down"
    """Those of the targets that are scaled at their input, where the inner activations of the feed-forward arrive; the
    others are scaled at their output."""


def _adapter(site: Site, at_input: bool) -> ScaledInput | ScaledOutput:
    inner, outer = sides_of(site)
    device = device_of(site.host)
    return ScaledInput(inner, device) if at_input else ScaledOutput(outer, device)


def _listed(targets: str | tuple[str, ...]) -> list[str]:
    return [targets] if isinstance(targets, str) else list(targets)


def _automatic(model: PreTrainedModel) -> list[Site]:
    model_type = model.config.model_type
    if model_type not in ANATOMY:
        raise UserError(
            f"`{model_type}` is not in the table of architectures, so its keys and values are not known",
            where="adapter.targets",
            fix="name the modules in `targets`, and those of the feed-forward in `feedforward`",
        )
    return [site for site in sites(model) if site.role in _SCALED]


def _among(model: PreTrainedModel, feedforward: str | tuple[str, ...], chosen: list[Site]) -> list[Site]:
    """The targets at whose input the vector acts. The default may match none of them; what a user names may not."""
    wanted = _listed(feedforward)
    if wanted == [Ia3Config.model_fields["feedforward"].default]:
        return [site for site in chosen if site.role == wanted[0]]
    return select(model, wanted, chosen) if wanted else []


def _to_peft(config: MethodConfig, placed: tuple[Placed, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """`peft` keeps l as [1, D_in] or [D_out, 1], and wants both lists of names written alike."""
    tensors, inner = {}, []
    for item in placed:
        at_input = isinstance(item.adapter, ScaledInput)
        vector = item.adapter.get_parameter("scale")
        tensors[f"{item.site.name}.ia3_l"] = vector[None, :] if at_input else vector[:, None]
        inner += [item.site.name] if at_input else []
    values: dict[str, Any] = {
        "target_modules": sorted(item.site.name for item in placed),
        "feedforward_modules": sorted(inner),
        "exclude_modules": None,
        "fan_in_fan_out": any(isinstance(item.site.host, Conv1D) for item in placed),
        "modules_to_save": None,
        "init_ia3_weights": True,
    }
    return values, tensors


def _from_peft(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[MethodConfig, Parts]:
    if values.get("modules_to_save"):
        raise UserError(
            f"the adapter uses `modules_to_save: {values['modules_to_save']!r}`, which Burnish's (IA)^3 does not read",
            where="adapter_config.json",
            fix="load it with `peft`, or merge it there first",
        )
    given = {
        "targets": _names(values.get("target_modules")),
        "feedforward": _names(values.get("feedforward_modules")),
    }
    config = build(Ia3Config, given, where="adapter_config.json")
    found = split_tensors(model, tensors, {"ia3_l": "scale"}, values)
    return config, Parts(placed=tuple(Placed(site, _filled(site, parts["scale"])) for site, parts in found))


def _names(given: Any) -> str | tuple[str, ...]:
    return f"re:^(?:{given})$" if isinstance(given, str) else tuple(sorted(given or ()))


def _filled(site: Site, tensor: Tensor) -> ScaledInput | ScaledOutput:
    """The shape says on which side it acts: [1, D_in] at the input, [D_out, 1] at the output."""
    inner, outer = sides_of(site)
    shape = tuple(tensor.shape)
    if shape not in ((1, inner), (outer, 1)):
        raise UserError(
            f"the adapter belongs to another base: the vector of `{site.name}` is {shape}, this model needs "
            f"{(1, inner)} or {(outer, 1)}",
            where="adapter_model.safetensors",
            fix="load the adapter onto the base that its adapter_config.json names",
        )
    adapter = _adapter(site, shape == (1, inner))
    with torch.no_grad():
        adapter.scale.copy_(tensor.flatten())
    return adapter


@method(
    "ia3",
    Ia3Config,
    learning_rate=3e-3,
    reason="(IA)^3 moves a few factors that start at one; 3e-3 is its authors' rate, far above that of matrices",
    format="peft",
    peft_type="IA3",
    to_peft=_to_peft,
    from_peft=_from_peft,
)
def ia3(model: PreTrainedModel, config: Ia3Config, seed: int) -> Parts:
    """``l_k * K``, ``l_v * V`` and ``W_down (l_ff * act(W_up x))`` (equation in section 3.3), every l starting at one.

    Raises:
        UserError: A target matches nothing or is no linear map, or the architecture is not known to `auto`.
    """
    chosen = _automatic(model) if config.targets == "auto" else select(model, config.targets)
    inner = {site.name for site in _among(model, config.feedforward, chosen)}
    return Parts(placed=tuple(Placed(site, _adapter(site, site.name in inner)) for site in chosen))
