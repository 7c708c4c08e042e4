"""Starts of LoRA that look at training rows: EVA at the inputs of the matrices, LoRA-GA at their gradients.

Shapes: N positions, D_in and D_out the sides of a matrix, R rank, K directions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from burnish.adapters.base import Placed, Sample, site_generator
from burnish.adapters.lora_config import LoraConfig
from burnish.adapters.lora_init import truncated_svd
from burnish.adapters.lora_layers import LoraAdapter, turned
from burnish.core.types import Batch

Directions = tuple[Tensor, float]
"""``S V^T`` [K, D_in] of the inputs so far, and the sum of their squares."""


def prepare(config: LoraConfig, placed: tuple[Placed, ...], sample: Sample, seed: int) -> None:
    """Set the start of the adapters from training rows, where `init` asks for that."""
    start = FROM_DATA.get(config.init)
    if start is not None:
        start(config, placed, sample, seed)


def eva(config: LoraConfig, placed: tuple[Placed, ...], sample: Sample, seed: int) -> None:
    """A holds the main directions of the inputs, B is zero (Paischer et al., 2024, arXiv:2410.07170, section 3).

    The right singular vectors of all inputs X [N, D_in] are updated micro-batch by micro-batch, from ``[S V^T; X]``
    (Ross et al., 2008, without their mean, as the paper has it), with K = rho R kept. Ranks go to the directions with
    the largest shares ``S_k^2 / ||X||^2`` over all matrices (equation 5). Deviation: every matrix keeps at least one.
    """
    inputs: dict[str, Tensor] = {}
    found: dict[str, Directions] = {}
    ranks = {item.site.name: _adapter(item).rank for item in placed}
    widths = {n: math.ceil(r * config.init_options.rho) for n, r in ranks.items()}
    with torch.no_grad(), _watched(placed, inputs):
        for batch, run in sample(config.init_options.batches):
            run()
            for item in placed:
                name = item.site.name
                rows = _real_rows(inputs.pop(name), batch)
                found[name] = _grown(found.get(name), rows, widths[name], site_generator(seed, item.site))
    if config.init_options.rho > 1:
        shares = {n: (d.square().sum(1) / total).tolist() for n, (d, total) in found.items()}
        ranks = dealt(shares, sum(ranks.values()))
    for item in placed:
        adapter, (directions, _) = _adapter(item), found[item.site.name]
        A = nn.functional.normalize(directions[: ranks[item.site.name]])
        adapter.start_at(A, torch.zeros(adapter.B.shape[0], len(A)))


def _grown(before: Directions | None, rows: Tensor, width: int, generator: torch.Generator) -> Directions:
    """The directions with further inputs [N, D_in] counted in."""
    stacked = rows if before is None else torch.cat([before[0], rows])
    _, S, Vh = truncated_svd(stacked, width, generator)
    return S[:, None] * Vh, float(rows.square().sum()) + (before[1] if before else 0.0)


def dealt(shares: Mapping[str, list[float]], total: int) -> dict[str, int]:
    """Ranks by explained variance: one for each matrix, and the rest to the largest shares, in order.

    Args:
        shares: Shares of the variance of each matrix's inputs, largest first.
        total: Sum of the ranks.
    """
    ranks = dict.fromkeys(shares, 1)
    rest = sorted(((share, name) for name, own in shares.items() for share in own[1:]), key=lambda pair: -pair[0])
    for _, name in rest[: total - len(ranks)]:
        ranks[name] += 1
    return ranks


@contextmanager
def _watched(placed: tuple[Placed, ...], inputs: dict[str, Tensor]) -> Iterator[None]:
    def look(name: str, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs[name] = args[0] if args else next(iter(kwargs.values()))

    hooks = [i.site.host.register_forward_pre_hook(partial(look, i.site.name), with_kwargs=True) for i in placed]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _real_rows(x: Tensor, batch: Batch) -> Tensor:
    """Inputs [N, D_in] in fp32 at places that are no padding."""
    masks = [batch.get("attention_mask"), batch.get("decoder_attention_mask")]
    mask = next((m for m in masks if isinstance(m, Tensor) and m.shape == x.shape[:2]), None)
    return (x[mask.bool()] if mask is not None else x.flatten(0, -2)).float()


def lora_ga(config: LoraConfig, placed: tuple[Placed, ...], sample: Sample, seed: int) -> None:
    """The first update goes where the gradient of W does (Wang et al., 2024, arXiv:2407.05000, algorithm 1).

    With the gradient ``G = U S V^T`` of the first micro-batches, ``A0 = c V_[1..R]^T`` and ``B0 = c U_[R+1..2R]`` with
    ``c = D_out^(1/4) / sqrt(gamma)`` (equation 12), and ``s B0 A0`` is taken off.
    """
    gradients: dict[str, Tensor] = {}
    weights = {item.site.name: item.site.host.get_parameter("weight") for item in placed}
    flags = {name: weight.requires_grad for name, weight in weights.items()}
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        for _, run in sample(config.init_options.batches):
            run().backward()
        gradients = {i.site.name: turned(i.site.host, _gradient(i.site.host)) for i in placed}
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(flags[name])
            weight.grad = None
    for item in placed:
        adapter = _adapter(item)
        G, R = gradients[item.site.name], adapter.rank
        U, _, Vh = truncated_svd(G, 2 * R, site_generator(seed, item.site))
        factor = G.shape[0] ** 0.25 / math.sqrt(config.init_options.gamma)
        adapter.start_at(factor * Vh[:R], factor * U[:, R : 2 * R])


def _gradient(host: nn.Module) -> Tensor:
    weight = host.get_parameter("weight")
    return weight.grad.float() if weight.grad is not None else torch.zeros_like(weight, dtype=torch.float32)


def _adapter(item: Placed) -> LoraAdapter:
    assert isinstance(item.adapter, LoraAdapter)
    return item.adapter


FROM_DATA: Mapping[str, Callable[[LoraConfig, tuple[Placed, ...], Sample, int], None]] = {
    "eva": eva,
    "lora_ga": lora_ga,
}
"""Starts that look at training rows, by the value of ``init``."""
