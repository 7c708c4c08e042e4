"""How far training moved each matrix: the size of its change and the effective rank of it, without building it.

Shapes: D_in and D_out the sides of a host's matrix, R rank.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from burnish.adapters.attach import Attached
from burnish.adapters.base import RESERVED, Adapter, NotMergeable, Placed
from burnish.adapters.lora_layers import LowRank

MOST_COLUMNS = 1024
"""The shorter side of a matrix up to which the rank of an explicit change is worth its decomposition."""


@dataclass(frozen=True)
class Drift:
    """How far one matrix moved.

    Attributes:
        name: Its module or parameter.
        layer: Number of its layer; None outside the layers.
        change: Squared Frobenius norm of the change.
        weight: Squared Frobenius norm of the matrix before.
        rank: Effective rank of the change; None where it is not measured or nothing changed.
    """

    name: str
    layer: int | None
    change: float
    weight: float
    rank: float | None = None


def effective_rank(singular: Tensor) -> float:
    """``exp`` of the entropy of the singular values, taken as shares (Roy & Vetterli, 2007, definition 2).

    Between 1, all in one direction, and the number of singular values, equal in all.
    """
    values = singular.double()
    total = float(values.sum())
    if total <= 0:
        return float("nan")
    shares = values / total
    shares = shares[shares > 0]
    return float(torch.exp(-(shares * shares.log()).sum()))


def low_rank_change(A: Tensor, B: Tensor, scale: float) -> tuple[float, float | None]:
    """Squared norm and effective rank of ``s B A`` from its factors alone.

    ``||s B A||^2 = s^2 tr((B^T B)(A A^T))``, and with ``B = Q_B R_B`` and ``A^T = Q_A R_A`` the singular values of
    ``B A`` are those of the [R, R] matrix ``R_B R_A^T``.

    Args:
        A: [R, D_in].
        B: [D_out, R].
        scale: s.
    """
    A, B = A.detach().double(), B.detach().double()
    square = scale**2 * float(((B.T @ B) * (A @ A.T)).sum())
    if square <= 0:
        return 0.0, None
    inner = torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T
    return square, effective_rank(torch.linalg.svdvals(inner))


def explicit_change(change: Tensor) -> tuple[float, float | None]:
    """Squared norm and effective rank of a change that is at hand; no rank for vectors and very wide matrices."""
    square = _square(change)
    if square <= 0 or change.dim() != 2 or min(change.shape) > MOST_COLUMNS:
        return square, None
    wide = change.float() if change.shape[0] <= change.shape[1] else change.float().T
    eigenvalues = torch.linalg.eigvalsh(wide.double() @ wide.double().T)
    return square, effective_rank(eigenvalues.clamp_min(0).sqrt())


def _square(tensor: Tensor) -> float:
    """Squared Frobenius norm, summed in fp32 at least, without a copy."""
    dtype = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return float(torch.linalg.vector_norm(tensor.detach(), dtype=dtype)) ** 2


@torch.no_grad()
def adapter_drift(attached: Attached) -> list[Drift]:
    """How far each host's weights are from those of the base with these adapters in them.

    Low-rank updates are measured by their factors; other mergeable methods by one host at a time. A method that has no
    form in the weights of its host (prefixes, bottlenecks) gives nothing: its drift shows in the layers only.
    """
    found = (_of_site(item) for item in attached.placed)
    return [one for one in found if one is not None]


def _of_site(item: Placed) -> Drift | None:
    host, adapter = item.site.host, item.adapter
    own = [p for p in host.parameters(recurse=False) if p.is_floating_point()]
    if not own or not adapter.merges_copies:
        return None
    size = sum(_square(p) for p in own)
    if isinstance(adapter, LowRank) and adapter.additive:
        A, B = adapter.factors()
        square, rank = low_rank_change(A, B, adapter.scale) if len(A) else (0.0, None)
        return Drift(item.site.name, item.site.layer, square, size, rank)
    try:
        adapter.check_mergeable(host)
        changes = _merged_changes(host, adapter)
    except NotMergeable:
        return None
    found = [explicit_change(change) for change in changes]
    ranks = [rank for _, rank in found if rank is not None]
    return Drift(item.site.name, item.site.layer, sum(square for square, _ in found), size, ranks[0] if ranks else None)


def _merged_changes(host: nn.Module, adapter: Adapter) -> list[Tensor]:
    """What merging would change of each of the host's parameters, found on a copy of this host alone."""
    plain = copy.copy(host)
    plain.__dict__.pop("forward", None)
    for name, value in vars(host).items():
        if name.endswith(("_hooks", "_hooks_with_kwargs", "_always_called")):
            plain.__dict__[name] = type(value)()
    own = {name: p.detach().float() for name, p in host._parameters.items() if p is not None}
    plain.__dict__["_parameters"] = dict.fromkeys(host._parameters) | {
        name: nn.Parameter(value.clone()) for name, value in own.items()
    }
    plain.__dict__["_modules"] = {name: module for name, module in host._modules.items() if name != RESERVED}
    adapter.merge_(plain)
    return [plain.get_parameter(name).detach() - before for name, before in own.items()]


@torch.no_grad()
def weight_drift(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], layers: Mapping[str, int | None]
) -> Iterator[Drift]:
    """How far the weights of a whole model moved, tensor by tensor.

    Args:
        before: The original's parameters by name.
        after: The tuned model's that were trained.
        layers: The layer of each parameter.
    """
    for name, tensor in after.items():
        if name not in before:
            continue
        old = before[name].detach().float()
        square, rank = explicit_change(tensor.detach().float().to(old.device) - old)
        yield Drift(name, layers.get(name), square, _square(old), rank)


def by_layer(drifts: list[Drift]) -> dict[int, dict[str, float | None]]:
    """``||change|| / ||weight||`` over all matrices of each layer, and the mean effective rank of their changes."""
    layers: dict[int, list[Drift]] = {}
    for one in drifts:
        layers.setdefault(-1 if one.layer is None else one.layer, []).append(one)
    return {number: _summed(own) for number, own in sorted(layers.items())}


def _summed(drifts: list[Drift]) -> dict[str, float | None]:
    change, weight = sum(d.change for d in drifts), sum(d.weight for d in drifts)
    ranks = [d.rank for d in drifts if d.rank is not None]
    return {
        "relative": (change / weight) ** 0.5 if weight > 0 else None,
        "rank": sum(ranks) / len(ranks) if ranks else None,
    }
