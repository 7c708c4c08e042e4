"""Which methods act where the loss is most sensitive: one pass of gradients over a few micro-batches.

The importance of a weight w with gradient g is |g w|, the first-order change of the loss if it were set to zero
(Molchanov et al., 2019, arXiv:1906.10771, eq. 9, there squared). A method's is the sum over the base's weights where
it acts; a weight where several act counts for each in equal parts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.base import MethodConfig
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
