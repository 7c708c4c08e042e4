"""Which methods and matrices the loss is most sensitive to: one pass of gradients over a few micro-batches.

The importance of a weight w with gradient g is |g w|, the first-order change of the loss if it were set to zero
(Molchanov et al., 2019, arXiv:1906.10771, eq. 9, there squared). A method's is the sum over the base's weights where
it acts; a weight where several act counts for each in equal parts. Of single matrices the Fisher information and the
singular values of the gradient are measured too: an update of rank R can follow the R largest of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import MethodConfig
from burnish.adapters.drift import effective_rank
from burnish.adapters.lora_layers import turned
from burnish.models.anatomy import Site
from burnish.plan.sizes import parts_of

FLOOR = 0.05
"""Least share of a method: a measurement on a few rows is no reason to leave one out."""


def gradient_masses(model: nn.Module, losses: Iterable[Tensor]) -> dict[str, float]:
    """``sum |g w|`` of every parameter, its gradients summed over the losses.

    The model's flags and gradients are put back afterwards; the weights stay as they are.

    Args:
        model: The model.
        losses: One loss for each micro-batch, each made when it is asked for, so that one graph lives at a time.
    """
    flags = [(p, p.requires_grad) for p in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        for loss in losses:
            loss.backward()
        return {
            name: float((p.grad.float() * p.detach().float()).abs().sum())
            for name, p in model.named_parameters()
            if p.grad is not None
        }
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None


def importance_shares(
    model: PreTrainedModel, configs: Sequence[MethodConfig], masses: Mapping[str, float]
) -> dict[str, float]:
    """The share of each method in what ``gradient_masses`` measured, none below ``FLOOR``; they sum to one.

    Args:
        model: The same model, or its shapes.
        configs: One configuration for each method.
        masses: By parameter name.
    """
    acting = {config.method: _weights_of(model, config) for config in configs}
    raw = dict.fromkeys(acting, 0.0)
    for name, mass in masses.items():
        sharing = [method for method, names in acting.items() if name in names]
        for method in sharing:
            raw[method] += mass / len(sharing)
    total = sum(raw.values()) or 1.0
    floored = {method: max(FLOOR, value / total) for method, value in raw.items()}
    return {method: value / sum(floored.values()) for method, value in floored.items()}


def _weights_of(model: PreTrainedModel, config: MethodConfig) -> set[str]:
    """Names of the base's own parameters where a method acts; a method on the whole model acts on its inputs."""
    parts = parts_of(config, model)
    hosts = [site.host for site in parts.sites or tuple(item.site for item in parts.placed)]
    hosts = [model.get_input_embeddings() if host is model else host for host in hosts]
    inside = {id(p) for host in hosts for p in host.parameters()}
    return {name for name, p in model.named_parameters() if id(p) in inside} | set(parts.base)


@dataclass(frozen=True)
class Salience:
    """What the gradients at one matrix say. Shapes: D_in and D_out its sides, G [D_out, D_in] the summed gradient.

    Attributes:
        name: The module.
        role: Its part.
        layer: Number of its layer; None outside the layers.
        weights: D_in * D_out.
        sensitivity: ``sum |G w|``.
        fisher: ``sum_i ||g_i||^2`` over the losses, the trace of the empirical Fisher information times their number.
        singular: Singular values of G, the largest first.
    """

    name: str
    role: str
    layer: int | None
    weights: int
    sensitivity: float
    fisher: float
    singular: tuple[float, ...]

    @property
    def rank(self) -> float:
        """Effective rank of G: ``exp`` of the entropy of its singular values (Roy and Vetterli, 2007)."""
        return effective_rank(torch.tensor(self.singular, dtype=torch.float64))

    def to_json(self) -> dict[str, Any]:
        """For a file of results; of the singular values the first ones."""
        return {**vars(self), "singular": list(self.singular[:SHOWN]), "effective_rank": self.rank}


SHOWN = 32
"""Singular values of a matrix that a file of results keeps."""


def saliences(model: nn.Module, sites: Sequence[Site], losses: Iterable[Tensor]) -> list[Salience]:
    """What the gradients say at every site; flags and gradients are put back, the weights stay as they are.

    Args:
        model: The model.
        sites: Modules with a matrix.
        losses: One loss for each row, each made when it is asked for. Losses of several rows will do, but then the
            Fisher information is that of their sums, in which opposed gradients cancel.
    """
    weights = {site.name: site.host.get_parameter("weight") for site in sites}
    flags = [(p, p.requires_grad) for p in model.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
    sums: dict[str, Tensor] = {}
    squares = dict.fromkeys(weights, 0.0)
    try:
        for loss in losses:
            loss.backward()
            for name, weight in weights.items():
                if weight.grad is not None:
                    squares[name] += float(weight.grad.double().square().sum())
                    sums[name] = sums[name].add_(weight.grad) if name in sums else weight.grad
                    weight.grad = None
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
    return [_salience(site, weights[site.name], sums.get(site.name), squares[site.name]) for site in sites]


@torch.no_grad()
def _salience(site: Site, weight: Tensor, total: Tensor | None, square: float) -> Salience:
    total = torch.zeros_like(weight) if total is None else total
    singular = torch.linalg.svdvals(turned(site.host, total).float())
    sensitivity = float((total.float() * weight.detach().float()).abs().sum())
    return Salience(
        site.name, str(site.role), site.layer, weight.numel(), sensitivity, square, tuple(singular.tolist())
    )


def shares_of(found: Sequence[Salience], key: str) -> dict[str, tuple[float, float, float]]:
    """Shares by layer or by role: of the sensitivity, of the Fisher information, and of the weights.

    Args:
        found: The matrices.
        key: ``layer`` or ``role``.
    """
    groups: dict[str, list[Salience]] = {}
    for one in found:
        group = getattr(one, key)
        groups.setdefault("outside the layers" if group is None else str(group), []).append(one)
    totals = [sum(getattr(one, name) for one in found) or 1.0 for name in ("sensitivity", "fisher", "weights")]
    return {
        name: (
            sum(one.sensitivity for one in own) / totals[0],
            sum(one.fisher for one in own) / totals[1],
            sum(one.weights for one in own) / totals[2],
        )
        for name, own in groups.items()
    }
