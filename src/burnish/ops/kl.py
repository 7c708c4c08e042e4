"""Divergence of next-token distributions from those of another model, chunk by chunk: [N, V] logits never exist.

Shapes: N positions, C positions of one chunk, D width, V vocabulary, K kept tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.cross_entropy import chunk_rows

DivergenceName = Literal["forward", "reverse", "js"]
Judge = Callable[[slice, Tensor], tuple[Tensor, Tensor]]
"""From positions and our log-probabilities [C, V] there, to divergences [C] and their gradient [C, V] with respect to
the logits that these log-probabilities are the softmax of."""


class Output(NamedTuple):
    """A plain output projection: ``cap(scale * h W^T + b)``, as in ``cross_entropy.chunked_token_losses``."""

    weight: Tensor  # [V, D]
    bias: Tensor | None = None  # [V]
    scale: float = 1.0
    softcap: float | None = None


def _forward(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """``KL(p || q) = sum p (log p - log q)``; gradient ``q - p``."""
    p = theirs.exp()
    return (p * (theirs - ours)).sum(-1), ours.exp().sub_(p)


def _reverse(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """``KL(q || p) = sum q (log q - log p)``; gradient ``q (log q - log p - KL)``."""
    q, ratio = ours.exp(), ours - theirs
    value = (q * ratio).sum(-1)
    return value, q.mul_(ratio.sub_(value[..., None]))


def _js(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """``(KL(p || m) + KL(q || m)) / 2`` with ``m = (p + q) / 2``; gradient ``q (log q - log m - KL(q || m)) / 2``."""
    middle = torch.logaddexp(ours, theirs) - math.log(2.0)
    q, ratio = ours.exp(), ours - middle
    own = (q * ratio).sum(-1)
    value = (own + (theirs.exp() * (theirs - middle)).sum(-1)) / 2
    return value, q.mul_(ratio.sub_(own[..., None])).div_(2)


DIVERGENCES: Mapping[DivergenceName, Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "forward": _forward,
    "reverse": _reverse,
    "js": _js,
}
"""From the log-probabilities log q of the model that learns and log p of the other, both [C, V], to the divergence [C]
and its gradient with respect to the logits of q. Jensen-Shannon is at most log 2."""


def dense(logits: Callable[[slice], Tensor], kind: DivergenceName, temperature: float = 1.0) -> Judge:
    """A judge by the other model's whole distribution.

    Args:
        logits: Its logits [C, V] at these positions, made when they are asked for.
        kind: Which divergence.
        temperature: What logits are divided by.
    """

    def judge(part: slice, ours: Tensor) -> tuple[Tensor, Tensor]:
        theirs = torch.log_softmax(logits(part) / temperature, dim=-1, dtype=ours.dtype)
        return DIVERGENCES[kind](ours, theirs)

    return judge


def sparse(ids_NK: Tensor, log_probs_NK: Tensor, kind: DivergenceName) -> Judge:
    """A judge by the other model's K likeliest tokens and what is left to all others together.

    Both distributions are compared over these K + 1 outcomes. Merging outcomes never makes two distributions look more
    different (data processing inequality), so the value is a lower bound of the whole divergence.

    Args:
        ids_NK: The tokens.
        log_probs_NK: Their log-probabilities, at the temperature that ours have.
        kind: Which divergence.
    """

    def judge(part: slice, ours: Tensor) -> tuple[Tensor, Tensor]:
        ids, known = ids_NK[part].long(), log_probs_NK[part].to(ours.dtype)
        picked = ours.gather(1, ids)
        grouped, theirs = _with_rest(picked), _with_rest(known)
        value, gradient = DIVERGENCES[kind](grouped, theirs)
        # a token among the others moves their sum by its share of it
        others = (ours - grouped[:, -1:]).exp_().mul_(gradient[:, -1:])
        return value, others.scatter_(1, ids, gradient[:, :-1])

    return judge


def _with_rest(log_probs: Tensor) -> Tensor:
    """[C, K] log-probabilities with that of all other outcomes behind them; it is kept above e^-20."""
    left = torch.log1p(-log_probs.exp().sum(-1, keepdim=True).clamp(max=1 - 2e-9))
    return torch.cat([log_probs, left.clamp_min(-20.0)], -1)


def chunked_divergences(
    hidden_ND: Tensor, output: Output, judge: Judge, *, temperature: float = 1.0, chunk: int | None = None
) -> Tensor:
    """``T^2 D(p_T, q_T)`` of every position in nats, with q_T the softmax of our logits over the temperature T.

    The factor T^2 keeps the size of the gradient as T changes (Hinton et al., 2015, section 2). With a frozen
    projection the gradient is computed in the forward pass and the logits are made once; a trained one makes them
    again. The softmax runs in fp32 (fp64 for fp64 input).

    Args:
        hidden_ND: Our hidden states, [N, D].
        output: Our projection.
        judge: ``dense`` or ``sparse``.
        temperature: T.
        chunk: Positions per chunk; by default those of ``chunked_token_losses``.

    Returns:
        [N], fp32 (fp64 for fp64 input).
    """
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device) and hidden_ND.dtype != torch.float64:
        hidden_ND = hidden_ND.to(torch.get_autocast_dtype(device))
    weight = output.weight.to(hidden_ND.dtype)
    bias = output.bias.to(hidden_ND.dtype) if output.bias is not None else None
    trains = weight.requires_grad or (bias is not None and bias.requires_grad)
    # fp16 waits for the (scaled) upstream gradient, as in the cross-entropy
    keep = torch.is_grad_enabled() and hidden_ND.requires_grad and not trains and hidden_ND.dtype != torch.float16
    settings = _Settings(chunk or chunk_rows(weight), output.scale, output.softcap, temperature, keep, judge)
    with torch.autocast(device, enabled=False):
        return _Chunked.apply(hidden_ND, weight, bias, settings)


def divergences_of_logits(logits_CV: Tensor, judge: Judge, part: slice, temperature: float = 1.0) -> Tensor:
    """The same [C] from logits that exist already, for a projection that is more than a matrix."""
    return _OfLogits.apply(logits_CV, judge, part, temperature)


class _Settings(NamedTuple):
    chunk: int
    scale: float
    softcap: float | None
    temperature: float
    keep: bool
    judge: Judge


def _log_probs(logits: Tensor, temperature: float) -> Tensor:
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return torch.log_softmax(logits.to(dtype) / temperature, dim=-1)


def _judged(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, part: slice, settings: _Settings
) -> tuple[Tensor, Tensor]:
    """Divergences [C] of one chunk and their gradient [C, V] with respect to what the matrix gives."""
    logits = F.linear(hidden if settings.scale == 1.0 else hidden * settings.scale, weight, bias)
    slope = None
    if settings.softcap is not None:
        ratio = torch.tanh((logits if logits.dtype == torch.float64 else logits.float()) / settings.softcap)
        slope, logits = 1 - ratio * ratio, ratio * settings.softcap
    value, gradient = settings.judge(part, _log_probs(logits, settings.temperature))
    gradient.mul_(settings.temperature)
    if slope is not None:
        gradient.mul_(slope)
    return value * settings.temperature**2, gradient


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        values = torch.zeros(hidden.shape[0], dtype=dtype, device=hidden.device)
        kept = torch.empty_like(hidden) if settings.keep else None
        for start in range(0, hidden.shape[0], settings.chunk):
            part = slice(start, start + settings.chunk)
            values[part], gradient = _judged(hidden[part], weight, bias, part, settings)
            if kept is not None:
                kept[part] = (gradient.to(hidden.dtype) @ weight) * settings.scale
        ctx.settings = settings
        ctx.save_for_backward(*((kept,) if kept is not None else (hidden, weight, bias)))
        return values

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        settings: _Settings = ctx.settings
        if settings.keep:
            (kept,) = ctx.saved_tensors
            return (kept * upstream[:, None]).to(kept.dtype), None, None, None
        hidden, weight, bias = ctx.saved_tensors
        needs = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if needs[0] else None
        grad_weight = torch.zeros_like(weight, dtype=upstream.dtype) if needs[1] else None
        grad_bias = torch.zeros_like(bias, dtype=upstream.dtype) if needs[2] else None
        for start in range(0, hidden.shape[0], settings.chunk):
            part = slice(start, start + settings.chunk)
            gradient = _judged(hidden[part], weight, bias, part, settings)[1].mul_(upstream[part, None])
            if grad_bias is not None:
                grad_bias += gradient.sum(0, dtype=grad_bias.dtype)
            gradient = gradient.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = (gradient @ weight) * settings.scale
            if grad_weight is not None:
                grad_weight += (gradient.t() @ hidden[part]) * settings.scale
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            None,
        )


class _OfLogits(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, judge: Judge, part: slice, temperature: float) -> Tensor:
        value, gradient = judge(part, _log_probs(logits, temperature))
        ctx.save_for_backward(gradient.mul_(temperature).to(logits.dtype))
        return value * temperature**2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return (gradient * upstream[:, None]).to(gradient.dtype), None, None, None
