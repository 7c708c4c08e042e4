"""BitFit: only biases are trained (Ben Zaken et al., 2022, arXiv:2106.10199)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import Adapter, MethodConfig, NotMergeable, Parts, Placed, method
from burnish.adapters.vectors import device_of, refuse_packed, replace_
from burnish.core.errors import UserError
from burnish.models.anatomy import Site, norms, select, sites


class BitfitConfig(MethodConfig):
    """The biases of a model, and nothing else: each is moved by a vector that starts at zero."""

    method: Literal["bitfit"] = "bitfit"
    targets: str | tuple[str, ...] = "all"
    """Whose biases: `all` (the linear maps inside the layers, and every norm), `norm`, roles such as `attention.query`
    and `mlp.up` (the paper's smaller variant), module names, or `re:PATTERN`; one or a list."""
    add_missing: bool = False
    """Give a bias to maps and norms that have none, as Llama's. Such a model then needs Burnish to run: its class has
    no place for them, so they cannot be merged."""


class AddedBias(Adapter):
    """``y = h + b`` on the output h of a map or norm; merging adds b to its bias.

    Args:
        width: D_out.
        device: Where b lives. It starts at zero.
    """

    reads_output_only = True

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width, device=device))

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Add the vector."""
        return output + self.bias.to(output.dtype)

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse a host without a bias: the file of the merged model would have no place for one."""
        if host._parameters.get("bias") is None:
            raise NotMergeable(
                f"this {type(host).__name__} has no bias, and the model's class would not read one; unmerged it costs "
                f"{self.bias.numel():,} additions per token",
                fix="use it unmerged, or train without `add_missing`",
            )
        refuse_packed(host)

    def merge_(self, host: nn.Module) -> None:
        """``b_host += b``."""
        self.check_mergeable(host)
        bias = host._parameters["bias"]
        assert bias is not None
        replace_(bias, bias.float() + self.bias)


@method(
    "bitfit",
    BitfitConfig,
    learning_rate=1e-3,
    reason="BitFit moves few numbers beside frozen matrices, so it takes a larger rate than those would",
)
def bitfit(model: PreTrainedModel, config: BitfitConfig, seed: int) -> Parts:
    """A vector beside every chosen bias.

    The paper trains the biases themselves; the function is the same, and here the base can be had back to the bit.
    Biases outside the layers (poolers, heads) are left out, as nothing may depend on them.

    Raises:
        UserError: A target matches nothing, or what it names has no biases.
    """
    everything = biasable(model)
    targets = [config.targets] if isinstance(config.targets, str) else list(config.targets)
    wanted = everything if targets == ["all"] else select(model, targets, everything)
    chosen = [site for site in wanted if config.add_missing or site.host._parameters.get("bias") is not None]
    if not chosen:
        named = f"a {model.config.model_type} model has" if wanted is everything else f"{', '.join(targets)}: there are"
        raise UserError(
            f"{named} no biases, so BitFit would train nothing",
            where="adapter",
            fix="add biases with `add_missing=true`, or choose another method, such as `lora`, `ia3` or `norm`",
        )
    return Parts(placed=tuple(Placed(site, AddedBias(_width(site), device_of(site.host))) for site in chosen))


def biasable(model: PreTrainedModel) -> list[Site]:
    """The maps inside the layers, and every norm."""
    maps: Sequence[Site] = [
        s for s in sites(model) if s.layer is not None and isinstance(s.host, (nn.Linear, Conv1D)) and s.role != "head"
    ]
    return [*maps, *norms(model)]


def _width(site: Site) -> int:
    host = site.host
    if isinstance(host, nn.Linear):
        return host.out_features
    return host.nf if isinstance(host, Conv1D) else host.get_parameter("weight").numel()
