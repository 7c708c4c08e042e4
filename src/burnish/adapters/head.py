"""Head only: the model is a frozen feature extractor, and only its head learns."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import Adapter, MethodConfig, Parts, Placed, method
from burnish.adapters.vectors import refuse_packed, replace_
from burnish.core.errors import UserError
from burnish.models.anatomy import sites


class HeadConfig(MethodConfig):
    """The head alone: a classification's new head, or a change of a language model's output map."""

    method: Literal["head"] = "head"


class HeadDelta(Adapter):
    """``logits = W x + D x (+ b)`` at the output map of a language model; D [V, D_in] and b start at zero.

    The change lies beside the map, so an input embedding that is tied to it stays as it was.

    Args:
        host: The output map.
    """

    def __init__(self, host: nn.Linear) -> None:
        super().__init__()
        weight = host.weight
        shape = (host.out_features, host.in_features)
        self.weight = nn.Parameter(torch.zeros(shape, device=weight.device))
        self.bias = nn.Parameter(torch.zeros(shape[0], device=weight.device)) if host.bias is not None else None

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Add the change to the logits."""
        x = args[0] if args else next(iter(kwargs.values()))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return output + F.linear(x, self.weight.to(x.dtype), bias).to(output.dtype)

    def check_mergeable(self, host: nn.Module) -> None:
        """Plain weights take it; ``merge_`` of the set refuses those that are tied."""
        refuse_packed(host)

    def merge_(self, host: nn.Module) -> None:
        """``W += D``, ``b += b'``."""
        self.check_mergeable(host)
        for name, change in self.named_parameters():
            own = host.get_parameter(name)
            replace_(own, own.float() + change)


@method(
    "head",
    HeadConfig,
    learning_rate=1e-3,
    reason="a linear map on frozen features is a convex problem, which takes a large rate",
)
def head(model: PreTrainedModel, config: HeadConfig, seed: int) -> Parts:
    """The change of a language model's output map; nothing for a model without one, whose new head is the task's.

    Raises:
        UserError: The output map is no linear layer.
    """
    found = [site for site in sites(model) if site.role == "head"]
    if not found:
        return Parts(leaves_it_to_the_head=True)
    host = found[0].host
    if not isinstance(host, nn.Linear):
        raise UserError(
            f"the head `{found[0].name}` is a {type(host).__name__}, not a linear layer",
            where="adapter",
            fix="train other layers, such as with `lora`",
        )
    return Parts(placed=(Placed(found[0], HeadDelta(host)),))
