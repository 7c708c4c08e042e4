"""AdaLoRA: updates as singular values and vectors, of which the unimportant are pruned (Zhang et al., 2023,
arXiv:2303.10512).

Shapes: D_in and D_out the sides of a host's matrix, R rank. The paper's P is B here, its diagonal is E, its Q is A.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.adapters.adalora_peft import from_peft_values, to_peft_values
from burnish.adapters.base import MethodConfig, Parts, Placed, method, site_generator
from burnish.adapters.lora import refuse_high_ranks, refuse_without_matrix
from burnish.adapters.lora_config import Plan
from burnish.adapters.lora_layers import LowRank, sides
from burnish.core.types import Batch, Context, Loss, Term
from burnish.models.anatomy import select

FIRST = 3
"""No pruning in the first updates, in which the loop looks whether every tensor trains."""


class AdaloraConfig(MethodConfig):
    """Low-rank updates whose ranks are dealt out while training: the least important singular values go."""

    method: Literal["adalora"] = "adalora"
    rank: int = Field(12, ge=1)
    """Rank R that every matrix starts with."""
    target_rank: int = Field(8, ge=1)
    """Rank that is left in the end, on average over all matrices."""
    alpha: float | None = Field(None, gt=0, allow_inf_nan=False)
    """The update is scaled by alpha / rank; without it 2 * rank."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the input of the update while training."""
    warmup: float = Field(0.1, ge=0, le=1)
    """Share of the updates before the first pruning (three of them at least). A run of so few updates that none lies
    between `warmup` and `settle` prunes nothing."""
    settle: float = Field(0.3, ge=0, le=1)
    """Share of the updates at the end, after the last pruning."""
    prune_every_steps: int = Field(10, ge=1)
    """Updates between two prunings; what is pruned can come back until the last one."""
    beta1: float = Field(0.85, gt=0, lt=1)
    """Smoothing of the importance."""
    beta2: float = Field(0.85, gt=0, lt=1)
    """Smoothing of its uncertainty."""
    orthogonality: float = Field(0.1, ge=0, allow_inf_nan=False)
    """Weight of the penalty that keeps singular vectors orthonormal. It is part of the loss that is shown."""
    targets: str | tuple[str, ...] = "all-linear"
    """Where, as for LoRA: `all-linear`, roles, module names or `re:PATTERN`; one or a list. No embeddings."""

    @model_validator(mode="after")
    def _budget_shrinks(self) -> AdaloraConfig:
        if self.target_rank > self.rank:
            raise ValueError(f"`target_rank` {self.target_rank} is above `rank` {self.rank}, and ranks only shrink")
        if self.warmup + self.settle > 1:
            raise ValueError("`warmup` and `settle` are more than all updates; lower one of them")
        return self

    @property
    def resolved_alpha(self) -> float:
        """The configured alpha, or its default."""
        return self.alpha if self.alpha is not None else 2.0 * self.rank

    @property
    def scale(self) -> float:
        """Factor s on the update; the small number is that of the authors' code, and `peft`'s."""
        return self.resolved_alpha / (self.rank + 1e-5)


class AdaloraAdapter(LowRank):
    """``h = W x + s B diag(E) A dropout(x)`` (equation 3), A [R, D_in], E [R, 1], B [D_out, R].

    Args:
        host: The module that carries the matrix.
        rank: R.
        scale: s; it stays when ranks go.
        dropout: Dropout rate.
        generator: Draws A and B, normal with standard deviation 0.02; E is zero. Zeros without one.
    """

    mask: Tensor

    def __init__(
        self, host: nn.Module, rank: int, scale: float, dropout: float = 0.0, generator: torch.Generator | None = None
    ) -> None:
        super().__init__(scale, dropout)
        inner, outer = sides(host) or (0, 0)
        A, B = torch.zeros(rank, inner), torch.zeros(outer, rank)
        if generator is not None:
            A.normal_(0, 0.02, generator=generator)
            B.normal_(0, 0.02, generator=generator)
        device = next(host.parameters()).device
        self.A, self.B = nn.Parameter(A.to(device)), nn.Parameter(B.to(device))
        self.E = nn.Parameter(torch.zeros(rank, 1, device=device))
        self.register_buffer("mask", torch.ones(rank, 1, dtype=torch.bool, device=device))
        for name in "AEB":
            for kind in ("importance", "uncertainty"):
                self.register_buffer(f"{kind}_{name}", torch.zeros_like(self.get_parameter(name)))

    def factors(self) -> tuple[Tensor, Tensor]:
        """``diag(E) A`` and B."""
        return self.A * self.E, self.B

    def handed_over(self, trained: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Without the singular values that are pruned, whose products are zero."""
        if "E" not in trained or "mask" not in kept:
            return trained
        rows = (kept["mask"] | (trained["E"] != 0)).flatten()
        return {"A": trained["A"][rows], "E": trained["E"][rows], "B": trained["B"][:, rows]}

    @torch.no_grad()
    def take_note(self, beta1: float, beta2: float) -> None:
        """Smooth importance and uncertainty with the gradients of the update that was made (equations 9 to 11).

        ``I = |w g|``, ``I' = beta1 I' + (1 - beta1) I``, ``U' = beta2 U' + (1 - beta2) |I - I'|``; as in the authors'
        code with the new I' in U', and with the new w.
        """
        for name in "AEB":
            parameter = self.get_parameter(name)
            if parameter.grad is None:
                continue
            importance, uncertainty = self.get_buffer(f"importance_{name}"), self.get_buffer(f"uncertainty_{name}")
            now = (parameter * parameter.grad).abs()
            importance.mul_(beta1).add_(now, alpha=1 - beta1)
            uncertainty.mul_(beta2).add_((now - importance).abs(), alpha=1 - beta2)

    def scores(self) -> Tensor:
        """Importance of each singular value [R]: its own, and the means of its vectors' (equation 8)."""
        parts = {n: self.get_buffer(f"importance_{n}") * self.get_buffer(f"uncertainty_{n}") for n in "AEB"}
        return parts["E"].flatten() + parts["A"].mean(1) + parts["B"].mean(0)

    @torch.no_grad()
    def prune(self) -> None:
        """Set to zero what the mask does not keep."""
        self.E.mul_(self.mask)


def budget_at(config: AdaloraConfig, matrices: int, step: int, total_steps: int) -> int | None:
    """Singular values that may stay after ``step`` updates, or None where nothing is pruned now (equation 12).

    Between the first and the last pruning, with ``x`` the share of that way still to go,
    ``budget = target + (start - target) x^3``.
    """
    first = max(FIRST, round(config.warmup * total_steps))
    last = total_steps - round(config.settle * total_steps)
    if not first < step <= last or (step % config.prune_every_steps and step != last):
        return None
    start, target = config.rank * matrices, config.target_rank * matrices
    left = 1 - (step - first) / (last - first)
    return int((start - target) * left**3 + target)


def observe(config: AdaloraConfig, placed: tuple[Placed, ...], step: int, total_steps: int) -> None:
    """Take note of importance, and prune when it is time; after the last pruning what is gone stays gone."""
    adapters = _adapters(placed)
    last = total_steps - round(config.settle * total_steps)
    if step < last:
        for adapter in adapters:
            adapter.take_note(config.beta1, config.beta2)
    budget = budget_at(config, len(adapters), step, total_steps)
    if budget is not None:
        allocate(adapters, budget)
    if budget is not None or step > last:
        for adapter in adapters:
            adapter.prune()


def allocate(adapters: list[AdaloraAdapter], budget: int) -> None:
    """Keep the ``budget`` most important singular values of all matrices together."""
    scores = torch.cat([adapter.scores() for adapter in adapters])
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[torch.sort(scores, descending=True, stable=True).indices[:budget]] = True
    for adapter, mask in zip(adapters, kept.split([len(a.mask) for a in adapters]), strict=True):
        adapter.mask.copy_(mask[:, None])


def terms(config: AdaloraConfig, placed: tuple[Placed, ...]) -> list[Term]:
    """The mean of ``||A A^T - 1||_F`` and ``||B^T B - 1||_F`` over all matrices (after equation 4).

    Deviation from the paper and as in the authors' code and `peft`: the norms are not squared, and the mean is taken in
    place of the sum. The loop asks for it once in an update, whatever the number of micro-batches.
    """
    adapters = _adapters(placed)

    def loss(batch: Batch, context: Context) -> Loss:
        with torch.autocast(adapters[0].A.device.type, enabled=False):
            grams = [g for a in adapters for g in (a.A @ a.A.t(), a.B.t() @ a.B)]
            norms = [torch.linalg.matrix_norm(g - torch.eye(len(g), device=g.device, dtype=g.dtype)) for g in grams]
            return Loss(torch.stack(norms).mean())

    if not config.orthogonality:
        return []
    return [Term("orthogonality", config.orthogonality, lambda batch: torch.ones(()), loss, once=True)]


def _adapters(placed: tuple[Placed, ...]) -> list[AdaloraAdapter]:
    return [item.adapter for item in placed if isinstance(item.adapter, AdaloraAdapter)]


def _to_peft(config: MethodConfig, placed: tuple[Placed, ...]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    assert isinstance(config, AdaloraConfig)
    found = {}
    for item in placed:
        assert isinstance(item.adapter, AdaloraAdapter)
        trained = {name: item.adapter.get_parameter(name).detach() for name in "AEB"}
        rows = (item.adapter.mask | (trained["E"] != 0)).flatten()
        found[item.site.name] = (item.adapter.handed_over(trained, {"mask": item.adapter.mask}), rows)
    return to_peft_values(config, placed, found)


def _from_peft(
    model: PreTrainedModel, values: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> tuple[MethodConfig, Parts]:
    config, found = from_peft_values(AdaloraConfig, model, values, tensors)
    placed = []
    for site, factors in found:
        adapter = AdaloraAdapter(site.host, len(factors["E"]), config.scale, config.dropout)
        with torch.no_grad():
            for name, tensor in factors.items():
                adapter.get_parameter(name).copy_(tensor)
        placed.append(Placed(site, adapter))
    return config, Parts(placed=tuple(placed))


@method(
    "adalora",
    AdaloraConfig,
    learning_rate=2e-3,
    reason="the singular values of AdaLoRA start at zero between small vectors, so they take more than LoRA's rate",
    format="peft",
    peft_type="ADALORA",
    to_peft=_to_peft,
    from_peft=_from_peft,
    terms=terms,
    observe=observe,
)
def adalora(model: PreTrainedModel, config: AdaloraConfig, seed: int) -> Parts:
    """Singular values and vectors at every target.

    Raises:
        UserError: A target matches nothing or is no linear map, or the rank exceeds the smaller side of one.
    """
    sites = select(model, config.targets)
    refuse_without_matrix(sites, tables=False, name="AdaLoRA")
    refuse_high_ranks([Plan(site, config.rank, config.scale) for site in sites])
    return Parts(
        placed=tuple(
            Placed(s, AdaloraAdapter(s.host, config.rank, config.scale, config.dropout, site_generator(seed, s)))
            for s in sites
        )
    )
