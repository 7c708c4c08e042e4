"""What the gradients and updates of a run look like, measured beside the loop and without touching what it computes.

Shapes: every norm is over all elements of its tensors; B rows per update, b rows of its first micro-batch.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from burnish.train.distributed.engine import Engine

Named = Sequence[tuple[str, nn.Parameter]]

FIRST = 10
"""Updates at the beginning that are all measured: what is wrong from the start shows there."""
EVERY = 5
"""Afterwards every so many, and for runs of more than ``EVERY * MOST`` updates one in ``total / MOST``."""
MOST = 400
SAMPLE = 16_384
"""Elements of a tensor that updates and agreement are measured on, evenly spread: ratios need no more."""
NAMED = 5
"""Dead tensors that are named."""

_LAYER = re.compile(r"\.(?:layers?|h|blocks?)\.(\d+)\.")
_ROLES = (("classifier.", "head"), ("embed", "embedding"), ("norm", "norm"), (".bias", "bias"))


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to, from its name; ``outside`` for embeddings, heads and prompts."""
    found = _LAYER.search(name)
    side = "decoder " if ".decoder." in f".{name}" and found else ""
    return side + found[1] if found else "outside"


def group_of(name: str) -> str:
    """What kind of parameter a name is: ``lora.A``, ``head``, ``embedding``, ``norm``, ``bias`` or ``weight``."""
    inner = f".{name}".rpartition(".burnish_adapters.")[2]  # a prompt hangs on the model itself: nothing stands before
    if inner != f".{name}":
        return ".".join(inner.split(".")[-2:])
    lowered = name.lower()
    return next((role for word, role in _ROLES if word in lowered), "weight")


class GradientWatch:
    """Measures some updates of a run; what it does not measure costs nothing.

    Norms of gradients are those before clipping. The update of a tensor is not seen by keeping its old values, but
    recomputed from what AdamW (Loshchilov and Hutter, 2019, algorithm 2) keeps: with moments m, v after update t,

        w_before = (w + rate * u) / (1 - rate * decay),   u = (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps),

    and its ratio is ``|w - w_before| / |w|``. The gradient noise is estimated as in McCandlish et al. (2018, appendix
    A.1) from the norms of the first micro-batch and of the whole update, and, since most updates are one micro-batch,
    from the product of the new gradient with the mean of those before it, which AdamW keeps as its first moment: their
    noises are independent, so ``E[g . m] = |G|^2`` while ``E|g|^2 = |G|^2 + tr(S) / B``.

    Args:
        trainable: Names and parameters that are trained.
        optimizer: Their optimiser; ratios and products are left out where it keeps no full moments.
        total: Updates of the run.
        engine: Says what of a tensor lies in this process; sums of squares are added up over the shares.
    """

    def __init__(
        self, trainable: Named, optimizer: torch.optim.Optimizer, total: int, engine: Engine | None = None
    ) -> None:
        self.optimizer, self.engine = optimizer, engine or Engine()
        self.places = [(name, layer_of(name), group_of(name), parameter) for name, parameter in trainable]
        self.every = max(EVERY, total // MOST)
        self.full = isinstance(optimizer, torch.optim.AdamW)
        self._values: dict[str, Any] = {}

    def due(self, step: int) -> bool:
        """Whether update ``step``, counted from 0, is measured."""
        return step < FIRST or step % self.every == 0

    @torch.no_grad()
    def first_part(self, share: float, scale: float) -> None:
        """Take note of the gradient of the first micro-batch alone.

        Args:
            share: Its part b / B of the update's units.
            scale: What the loss was multiplied by (fp16), else 1.
        """
        grads = [p.grad for _, _, _, p in self.places if p.grad is not None]
        if share > 0 and grads:
            squares = self._norms(grads).square().sum()
            self._values["first"] = {"square": float(squares) / (share * scale) ** 2, "share": share}

    @torch.no_grad()
    def before_update(self, norm: float, max_norm: float | None) -> None:
        """Norms of the gradients, which have been clipped from ``norm`` to ``max_norm``, and how they agree with
        those before.
        """
        held = [(n, layer, group, p) for n, layer, group, p in self.places if p.grad is not None and p.requires_grad]
        grads = [p.grad for *_, p in held if p.grad is not None]
        clipped = min(1.0, max_norm / (norm + 1e-6)) if max_norm else 1.0
        norms = (self._norms(grads) / clipped).tolist() if grads else []
        self._values["norm"] = norm
        self._values["layers"] = _root_sums((layer, x) for (_, layer, _, _), x in zip(held, norms, strict=True))
        self._values["groups"] = _root_sums((group, x) for (_, _, group, _), x in zip(held, norms, strict=True))
        dead = [n for (n, *_), x in zip(held, norms, strict=True) if x == 0.0]
        dead += [n for n, _, _, p in self.places if p.grad is None and p.requires_grad]
        self._values |= {"tensors": len(self.places), "dead": len(dead), "dead_names": dead[:NAMED]}
        if self.full:
            self._agreement([p for *_, p in held])

    def _norms(self, tensors: Sequence[Tensor]) -> Tensor:
        """[N] norms of tensors, each over all processes that hold a share of it."""
        norms = torch.stack(torch._foreach_norm([self.engine.local(tensor) for tensor in tensors])).double()
        return self.engine.over_shares(norms.square()).sqrt() if self.engine.sharded else norms

    def _agreement(self, parameters: Sequence[nn.Parameter]) -> None:
        """The product of the gradients with the unbiased mean of those before, and their own square."""
        found: list[Tensor] = []
        beta = {id(p): group["betas"][0] for group in self.optimizer.param_groups for p in group["params"]}
        for parameter in parameters:
            state = self.optimizer.state.get(parameter, {})
            if "exp_avg" not in state or parameter.grad is None:
                return
            weight = 1.0 - beta[id(parameter)] ** float(state["step"])
            stride = stride_of(parameter)
            parts = (self.engine.local(t) for t in (parameter.grad, state["exp_avg"]))
            grad, mean = (t.reshape(-1)[::stride].contiguous() for t in parts)
            products = torch.stack([torch.dot(grad, mean), torch.dot(grad, grad), torch.dot(mean, mean)]) * stride
            found.append(products / products.new_tensor([weight, 1.0, weight**2]))
        if found:  # one look at the device, however many tensors there are
            product, square, before = self.engine.over_shares(torch.stack(found).double().sum(0)).tolist()
            self._values["agreement"] = {"product": product, "square": square, "before": before}

    @torch.no_grad()
    def after_update(self, made: bool) -> dict[str, Any]:
        """Add how far the tensors moved, and hand out everything that was measured of this update."""
        if made and self.full:
            rates = {id(p): group for group in self.optimizer.param_groups for p in group["params"]}
            states = self.optimizer.state
            held = [place for place in self.places if place[3].grad is not None and place[3] in states]
            squares = [movement(p, states[p], rates[id(p)], self.engine) for *_, p in held]
            numbers = self.engine.over_shares(torch.stack(squares).double()).tolist() if squares else []
            moved = [(layer, group, *both) for (_, layer, group, _), both in zip(held, numbers, strict=True)]
            self._values["layers_ratio"] = _ratios((layer, change, weight) for layer, _, change, weight in moved)
            self._values["groups_ratio"] = _ratios((group, change, weight) for _, group, change, weight in moved)
            self._values["ratio"] = _ratios(("", row[2], row[3]) for row in moved).get("")
        values, self._values = self._values, {}
        return values


def stride_of(parameter: Tensor) -> int:
    """Every how many elements of a tensor are looked at."""
    return max(1, math.ceil(parameter.numel() / SAMPLE))


def movement(
    parameter: Tensor, state: Mapping[str, Any], group: Mapping[str, Any], engine: Engine | None = None
) -> Tensor:
    """[2] squared norms of AdamW's last update of a tensor and of the tensor, from a sample of ``SAMPLE`` places.

    Args:
        parameter: The tensor after the update.
        state: Its ``step``, ``exp_avg`` and ``exp_avg_sq``.
        group: Its ``lr``, ``betas``, ``eps`` and ``weight_decay``.
        engine: Says what of the tensor lies in this process; the norms are those of that part.
    """
    local = (engine or Engine()).local
    stride = stride_of(parameter)
    kept = (parameter, state["exp_avg"], state["exp_avg_sq"])
    weight, mean, square = (local(t).reshape(-1)[::stride] for t in kept)
    step, (beta1, beta2), rate = float(state["step"]), group["betas"], float(group["lr"])
    change = mean / (1 - beta1**step) / ((square / (1 - beta2**step)).sqrt() + group["eps"]) * rate
    if group["weight_decay"]:
        left = 1 - rate * group["weight_decay"]
        change = (weight + change) / left - weight
    # the sample stands for the whole tensor: sums over tensors of different sizes stay comparable
    return torch.stack([torch.dot(change, change), torch.dot(weight, weight)]) * stride


def _root_sums(parts: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Norms of the parts of each name together."""
    sums: dict[str, float] = defaultdict(float)
    for name, norm in parts:
        sums[name] += norm * norm
    return {name: math.sqrt(total) for name, total in sums.items()}


def _ratios(parts: Iterable[tuple[str, float, float]]) -> dict[str, float]:
    """Norm of the updates by norm of the weights, for all tensors of each name together."""
    moved: dict[str, float] = defaultdict(float)
    held: dict[str, float] = defaultdict(float)
    for name, change, weight in parts:
        moved[name] += change
        held[name] += weight
    return {name: math.sqrt(moved[name] / held[name]) for name in moved if held[name]}
