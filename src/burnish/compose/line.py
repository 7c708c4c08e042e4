"""The straight line between the original weights and the tuned ones (WiSE-FT, Wortsman et al., 2022).

    w(alpha) = (1 - alpha) w_original + alpha w_tuned                     (arXiv:2109.01903, equation 1)

Of weights that were trained themselves this is taken as it stands. Beside a frozen matrix it is ``W + alpha dW``, and
for the methods of the table below that is a line in a few of their own tensors, from a value at rest, at which the
adapter changes nothing, to the tuned one. At 0 and at 1 the tensors are those of the ends, copied and not computed.
A new head of a classification has no original; it stays as it was tuned at every alpha.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.adalora import AdaloraAdapter
from burnish.adapters.attach import Attached
from burnish.adapters.base import Adapter
from burnish.adapters.bitfit import AddedBias
from burnish.adapters.head import HeadDelta
from burnish.adapters.lora_layers import FusedLoraAdapter, LoraAdapter, wide
from burnish.adapters.norm import TunedNorm
from burnish.adapters.vectors import ScaledInput, ScaledOutput
from burnish.adapters.vera import VeraAdapter
from burnish.core.errors import UserError

_LORA = {"B": 0.0, "B0": 0.0}
AT_REST: Mapping[type[Adapter], Mapping[str, float]] = {
    # the update is linear in B; with a start that is taken off it is s (B A - B0 A0), linear in B and B0 together
    LoraAdapter: _LORA,
    FusedLoraAdapter: _LORA,
    AdaloraAdapter: {"E": 0.0},
    VeraAdapter: {"b": 0.0},
    ScaledOutput: {"scale": 1.0},
    ScaledInput: {"scale": 1.0},
    AddedBias: {"bias": 0.0},
    TunedNorm: {"scale": 1.0, "bias": 0.0},
    HeadDelta: {"weight": 0.0, "bias": 0.0},
}
"""By kind of adapter: the tensors in which its change of the weights is linear, and where they change nothing."""


class NoLine(UserError):
    """What was trained has no place between the original and itself."""


@dataclass(frozen=True)
class _Point:
    """One tensor: where it lives, and both ends."""

    tensor: Tensor
    original: Tensor
    tuned: Tensor


class Line:
    """The weights of one model, which can be moved to any place between its ends.

    Args:
        points: Every tensor that moves.
    """

    def __init__(self, points: Sequence[_Point]) -> None:
        self.points = points

    @torch.no_grad()
    def move_(self, alpha: float) -> None:
        """Put the model's tensors at a place: 0 the original, 1 the tuned one, to the bit."""
        for point in self.points:
            if alpha in (0, 1):
                point.tensor.copy_(point.tuned if alpha else point.original)
                continue
            original, tuned = wide(point.original), wide(point.tuned)
            point.tensor.copy_((1 - alpha) * original + alpha * tuned)


def line_of(attached: Attached) -> Line:
    """The line of a set of adapters.

    Raises:
        NoLine: An adapter is not of a kind that has one.
    """
    return Line(list(_points(attached)))


def _points(attached: Attached) -> Iterator[_Point]:
    for item in attached.placed:
        rest = AT_REST.get(type(item.adapter))
        if rest is None:
            kind = type(item.adapter).__name__
            raise NoLine(
                f"what `{kind}` adds is no change of the weights that could be scaled (DoRA turns and stretches at "
                "once; prompts, prefixes and bottlenecks are computed from the text)",
                where=item.site.name,
                fix="use `lora` without `dora`, `vera`, `adalora`, `ia3`, `bitfit`, `norm`, `head` or `full`; or keep "
                "what the model knew while it trains: `data.replay`, `regularizers`",
            )
        for name, value in rest.items():
            tensor = getattr(item.adapter, name)
            if tensor is not None:
                yield _Point(tensor.data, torch.full_like(tensor, value), tensor.detach().clone())


def line_between(model: PreTrainedModel, original: nn.Module) -> Line:
    """The line of a model whose own weights were trained.

    Args:
        model: The tuned model; it is the one that moves.
        original: The model that it was trained from.

    Raises:
        NoLine: The two have different weights.
    """
    before, after = dict(original.named_parameters()), dict(model.named_parameters())
    odd = sorted(before.keys() ^ after.keys()) or [n for n, p in before.items() if p.shape != after[n].shape]
    if odd:
        raise NoLine(
            f"the tuned model and its original differ in {len(odd)} tensors, such as `{odd[0]}`",
            fix="bring back the model that the run was started with",
        )
    moved = [name for name, p in before.items() if not torch.equal(p.to(after[name]), after[name])]
    return Line([_Point(after[n].data, before[n].detach().to(after[n]), after[n].detach().clone()) for n in moved])
