"""What methods share that train vectors: on the output or the input of a map, in fp32, folded into weight and bias.

A factor near 1 has to be kept and multiplied in fp32: bf16 knows no number between 1 and 1.0078.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from burnish.adapters.base import Adapter, NotMergeable
from burnish.core.errors import UserError
from burnish.models.anatomy import Site


def device_of(host: nn.Module) -> torch.device:
    """Where a host's weights are."""
    return next(host.parameters()).device


def sides_of(site: Site) -> tuple[int, int]:
    """(D_in, D_out) of a map.

    Raises:
        UserError: The site is no linear map.
    """
    host = site.host
    if isinstance(host, nn.Linear):
        return host.in_features, host.out_features
    if isinstance(host, Conv1D):
        return host.nx, host.nf
    raise UserError(
        f"`{site.name}` is a {type(host).__name__}; this method needs a linear or Conv1D layer",
        where="adapter.targets",
        fix="leave it out of the targets",
    )


def refuse_packed(host: nn.Module) -> None:
    """Refuse to merge into weights that are not plain floating-point numbers.

    Raises:
        NotMergeable: They are stored in another form.
    """
    for parameter in host.parameters(recurse=False):
        if not parameter.is_floating_point():
            raise NotMergeable(
                f"a {type(host).__name__} with {parameter.dtype} weights cannot take the update",
                fix="merge into the base in float32 or bfloat16",
            )


def rows(host: nn.Module, vector: Tensor) -> Tensor:
    """A vector over the outputs, shaped to multiply the host's weight."""
    return vector[None, :] if isinstance(host, Conv1D) else vector[:, None]


@torch.no_grad()
def replace_(parameter: Tensor, value: Tensor) -> None:
    """Write a value that was computed in fp32, rounded once."""
    parameter.copy_(value.to(parameter.dtype))


class ScaledOutput(Adapter):
    """``y = l * h`` on the output of a map; merging gives ``diag(l) W`` and ``l * b``.

    Args:
        width: D_out.
        device: Where l lives. It starts at one.
    """

    reads_output_only = True

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, device=device))

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Scale the output."""
        return (output * self.scale).to(output.dtype)

    def check_mergeable(self, host: nn.Module) -> None:
        """Plain weights take it."""
        refuse_packed(host)

    def merge_(self, host: nn.Module) -> None:
        """``W = diag(l) W``, ``b = l b``."""
        self.check_mergeable(host)
        weight, bias = host._parameters["weight"], host._parameters.get("bias")
        assert weight is not None
        replace_(weight, weight.float() * rows(host, self.scale))
        if bias is not None:
            replace_(bias, bias.float() * self.scale)


class ScaledInput(Adapter):
    """``y = W (l * x) + b``; merging gives ``W diag(l)``.

    Args:
        width: D_in.
        device: Where l lives. It starts at one.
    """

    reads_input_only = True

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width, device=device))

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Scale the input."""
        if args:
            return ((args[0] * self.scale).to(args[0].dtype), *args[1:]), kwargs
        name, x = next(iter(kwargs.items()))
        return args, {**kwargs, name: (x * self.scale).to(x.dtype)}

    def check_mergeable(self, host: nn.Module) -> None:
        """Plain weights take it."""
        refuse_packed(host)

    def merge_(self, host: nn.Module) -> None:
        """``W = W diag(l)``."""
        self.check_mergeable(host)
        weight = host._parameters["weight"]
        assert weight is not None
        factor = self.scale[:, None] if isinstance(host, Conv1D) else self.scale[None, :]
        replace_(weight, weight.float() * factor)
