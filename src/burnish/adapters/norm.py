"""Norm tuning: only the norms of a model learn (Zhao et al., 2024, arXiv:2312.11420; `peft` calls it LN tuning)."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import Adapter, MethodConfig, NotMergeable, Parts, Placed, method
from burnish.adapters.vectors import device_of, refuse_packed, replace_
from burnish.core.errors import UserError
from burnish.models.anatomy import norms, select


class NormConfig(MethodConfig):
    """The layer norms and RMS norms of a model: each is scaled by a vector that starts at one, and moved by another."""

    method: Literal["norm"] = "norm"
    targets: str | tuple[str, ...] = "all"
    """Which norms: `all`, the end of a module name such as `input_layernorm`, or `re:PATTERN`; one or a list."""


class TunedNorm(Adapter):
    """``y = s * norm(x) + b``, b only where the norm has a bias; merging gives weight ``s w`` and bias ``s c + b``.

    Every norm with a weight w without zeros and a bias c can be reached so. Deviation: s is a factor on w where the
    paper moves w itself, so a step is a share of w and does not depend on its size.

    Args:
        host: The norm. s starts at one, b at zero.
    """

    reads_output_only = True

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        width, device = host.get_parameter("weight").numel(), device_of(host)
        self.scale = nn.Parameter(torch.ones(width, device=device))
        has_bias = host._parameters.get("bias") is not None
        self.bias = nn.Parameter(torch.zeros(width, device=device)) if has_bias else None

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor:
        """Scale and move the output."""
        scaled = output * self.scale
        return (scaled if self.bias is None else scaled + self.bias).to(output.dtype)

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse weights in another form, and norms that use their weight in a way that is not known."""
        refuse_packed(host)
        offset_of(host)

    @torch.no_grad()
    def merge_(self, host: nn.Module) -> None:
        """``w = s (w + o) - o`` (o is 1 for norms that multiply by 1 + w, as Gemma's, and else 0), ``c = s c + b``."""
        self.check_mergeable(host)
        offset, weight, bias = offset_of(host), host.get_parameter("weight"), host._parameters.get("bias")
        replace_(weight, self.scale * (weight.float() + offset) - offset)
        if bias is not None and self.bias is not None:
            replace_(bias, self.scale * bias.float() + self.bias)


@torch.no_grad()
def offset_of(host: nn.Module) -> float:
    """o of a norm ``(o + w) * normalised(x)``, found by calling it with w at zero and at one.

    Raises:
        NotMergeable: Neither 0 nor 1 describes it.
    """
    weight = host.get_parameter("weight")
    x = torch.linspace(-1, 2, weight.numel(), device=weight.device, dtype=weight.dtype)[None]
    at_zero, at_one = (_called(host, torch.full_like(weight, value), x).float() for value in (0.0, 1.0))
    for offset in (0.0, 1.0):  # at_one = (o + 1) n and at_zero = o n
        if torch.allclose(at_zero * (offset + 1), at_one * offset, atol=1e-3) and bool((at_one - at_zero).any()):
            return offset
    raise NotMergeable(f"it is not known how a {type(host).__name__} uses its weight", fix="use the adapter unmerged")


def _called(host: nn.Module, weight: Tensor, x: Tensor) -> Tensor:
    """The norm's own forward with another weight and no bias, on a shell of it; the host is not touched."""
    shell = object.__new__(type(host))
    own = {name: p if p is None or name == "weight" else torch.zeros_like(p) for name, p in host._parameters.items()}
    shell.__dict__.update({**host.__dict__, "_parameters": {**own, "weight": weight}})
    return type(host).forward(shell, x)


@method(
    "norm",
    NormConfig,
    learning_rate=3e-3,
    reason="norm tuning moves few numbers that start at one, so it takes a larger rate than matrices do: on 300 tweets "
    "SmolLM2 reached macro-F1 0.47 with it, 0.40 with 1e-3",
)
def norm(model: PreTrainedModel, config: NormConfig, seed: int) -> Parts:
    """A factor, and where there is a bias a vector, at every chosen norm.

    Raises:
        UserError: The model has no norms of the known kind, or a target matches none of them.
    """
    found = norms(model)
    if not found:
        raise UserError(
            f"no norm was found in this {model.config.model_type} model",
            where="adapter",
            fix="choose another method, such as `lora`",
        )
    targets = [config.targets] if isinstance(config.targets, str) else list(config.targets)
    chosen = found if targets == ["all"] else select(model, targets, found)
    return Parts(placed=tuple(Placed(site, TunedNorm(site.host)) for site in chosen))
