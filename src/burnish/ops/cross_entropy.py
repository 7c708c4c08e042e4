"""Negative log-likelihood of tokens straight from hidden states, chunk by chunk, so that [N, V] logits never exist.

Shapes: N positions, C positions of one chunk, D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.eight_bits import EightBits, round_rows
from burnish.ops.kernels import triton_kernel
from burnish.ops.native import kernels as native

IGNORE = -100

_InPlace = Callable[[Tensor, Tensor], Tensor]


def _compiled(hidden_CD: Tensor, softcap: float | None) -> _InPlace | None:
    if softcap is not None or not native.usable(hidden_CD):
        return None
    return lambda logits, labels: native.softmax_gradient_(logits, labels.contiguous(), gradient=True)


def _triton(hidden_CD: Tensor, softcap: float | None) -> _InPlace | None:
    kernel = triton_kernel("cross_entropy", "softmax_gradient_")
    return (lambda logits, labels: kernel(logits, labels, softcap)) if kernel else None


_IN_PLACE: dict[str, Callable[[Tensor, float | None], _InPlace | None]] = {"cpu": _compiled, "cuda": _triton}
"""By device: finds the kernel that gives the losses of a chunk and turns its logits into their own gradient."""

CHUNK_BYTES = {"cpu": 32 << 20}  # fp32 logits of one chunk; a cache-friendly size on a CPU
CHUNK_BYTES_ACCELERATOR = 256 << 20  # large enough to fill an accelerator's matrix units


class _Settings(NamedTuple):
    chunk: int
    scale: float
    softcap: float | None
    keep: bool  # compute the gradient of `hidden` in the forward pass and keep it
    eight: EightBits | None = None


def chunked_token_losses(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    bias_V: Tensor | None = None,
    *,
    chunk: int | None = None,
    hidden_scale: float = 1.0,
    logit_softcap: float | None = None,
    eight: EightBits | None = None,
) -> Tensor:
    """Negative log-likelihood of every position, without the [N, V] logits.

    ``z = scale * h W^T + b``, with a soft cap ``z = c tanh(z / c)``, and ``loss_i = logsumexp(z_i) - z_i[y_i]``. The
    matrix products run in the dtype of ``hidden`` (that of autocast, where it is on), the softmax in fp32 (fp64 for
    fp64 input). The gradient is exact for any upstream gradient per position; it is taken with respect to ``weight``
    and ``bias`` only where they ask for one. At most three [C, V] buffers are alive at once.

    With a frozen head the gradient of row i is ``g_i (softmax(z_i) - 1[y_i]) W``: everything but ``g_i`` is known in
    the forward pass, so it is computed there and the logits are made once, not twice. A trained head recomputes them.

    Args:
        hidden_ND: Hidden states before the head, [N, D].
        weight_VD: Weight of the head, [V, D].
        labels_N: Token ids, [N]; at -100 the loss and its gradient are 0.
        bias_V: Bias of the head, [V].
        chunk: Positions per chunk; by default as many as make 32 MiB of fp32 logits (256 MiB on an accelerator).
        hidden_scale: Factor on the hidden states, such as tied T5's ``d_model ** -0.5``.
        logit_softcap: The cap ``c`` of Gemma 2 and its relatives.
        eight: A frozen W in 8 bits, for products with hidden states of bf16.

    Returns:
        Losses in nats, [N], fp32 (fp64 for fp64 input).

    Raises:
        ValueError: The shapes do not fit together.
    """
    if hidden_ND.ndim != 2 or weight_VD.ndim != 2 or hidden_ND.shape[1] != weight_VD.shape[1]:
        raise ValueError(
            f"hidden {tuple(hidden_ND.shape)} and weight {tuple(weight_VD.shape)} do not fit: [N, D], [V, D]"
        )
    if labels_N.shape != hidden_ND.shape[:1]:
        raise ValueError(f"labels {tuple(labels_N.shape)} must be one per hidden state {tuple(hidden_ND.shape)}")
    device = hidden_ND.device.type
    if torch.is_autocast_enabled(device) and hidden_ND.dtype != torch.float64:
        hidden_ND = hidden_ND.to(torch.get_autocast_dtype(device))
    weight_VD = weight_VD.to(hidden_ND.dtype)
    bias_V = bias_V.to(hidden_ND.dtype) if bias_V is not None else None

    head_trains = weight_VD.requires_grad or (bias_V is not None and bias_V.requires_grad)
    # fp16 waits for the (scaled) upstream gradient: without it the softmax's small tail would underflow.
    keep = torch.is_grad_enabled() and hidden_ND.requires_grad and not head_trains and hidden_ND.dtype != torch.float16
    eight = eight if keep and hidden_ND.dtype == torch.bfloat16 else None
    settings = _Settings(chunk or chunk_rows(weight_VD), hidden_scale, logit_softcap, keep, eight)
    with torch.autocast(device, enabled=False):
        return _ChunkedLosses.apply(hidden_ND, weight_VD, bias_V, labels_N, settings)


def chunked_log_probs(hidden_ND: Tensor, weight_VD: Tensor, labels_N: Tensor, **options: Any) -> Tensor:
    """Log-probability of every label, [N]: ``-chunked_token_losses`` with the same options."""
    return -chunked_token_losses(hidden_ND, weight_VD, labels_N, **options)


def chunk_rows(weight_VD: Tensor) -> int:
    """How many positions make one chunk of logits for this head on its device."""
    budget = CHUNK_BYTES.get(weight_VD.device.type, CHUNK_BYTES_ACCELERATOR)
    return max(1, budget // (4 * max(1, weight_VD.shape[0])))


def _logits(hidden_CD: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> Tensor:
    """Logits [C, V] of one chunk, before the soft cap."""
    scaled = hidden_CD if settings.scale == 1.0 else hidden_CD * settings.scale
    if settings.eight is not None:
        return settings.eight.forward(round_rows(scaled), bias)
    return F.linear(scaled, weight, bias)


def _hidden_gradient(gradient_CV: Tensor, weight: Tensor, settings: _Settings) -> Tensor:
    """Gradient [C, D] of scaled hidden states from that of their logits."""
    return gradient_CV @ weight if settings.eight is None else settings.eight.backward(round_rows(gradient_CV))


def _log_probs(hidden_CD: Tensor, weight: Tensor, bias: Tensor | None, settings: _Settings) -> tuple[Tensor, Tensor]:
    """Log-softmax [C, V] of one chunk, and the slope of the soft cap ([C, V], or a scalar 1 without one)."""
    dtype = torch.float64 if hidden_CD.dtype == torch.float64 else torch.float32
    logits = _logits(hidden_CD, weight, bias, settings)
    slope = torch.ones((), dtype=dtype, device=logits.device)
    if settings.softcap is not None:
        ratio = torch.tanh(logits.to(dtype) / settings.softcap)
        slope = 1 - ratio * ratio
        logits = ratio * settings.softcap
    return torch.log_softmax(logits, dim=-1, dtype=dtype), slope


def _logit_gradient(log_probs: Tensor, slope: Tensor, labels: Tensor, upstream: Tensor | None) -> Tensor:
    """``g (softmax - onehot) * slope`` in place of ``log_probs``, [C, V]; zero where the label is ignored."""
    valid = labels != IGNORE
    gradient = log_probs.exp_()
    gradient.scatter_add_(1, labels.clamp(min=0)[:, None], -torch.ones_like(gradient[:, :1]))
    row = valid.to(gradient.dtype) if upstream is None else torch.where(valid, upstream.to(gradient.dtype), 0)
    gradient.mul_(row[:, None])
    return gradient.mul_(slope) if slope.ndim else gradient


def _losses(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood of every label, 0 where it is ignored."""
    picked = log_probs.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return torch.where(labels != IGNORE, -picked, 0)


def _in_place(hidden_CD: Tensor, softcap: float | None) -> _InPlace | None:
    """The kernel that turns logits like these into their own gradient; None for the plain path.

    float64 would lose its digits in a kernel, and fp16 waits for the scaled upstream gradient.
    """
    device, fits = hidden_CD.device.type, hidden_CD.dtype in (torch.bfloat16, torch.float32)
    return _IN_PLACE[device](hidden_CD, softcap) if fits and device in _IN_PLACE else None


def _losses_and_gradient(
    hidden_CD: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, settings: _Settings
) -> tuple[Tensor, Tensor]:
    """Losses [C] of one chunk, and the gradient [C, V] of each row's own loss with respect to its logits."""
    kernel = _in_place(hidden_CD, settings.softcap)
    if kernel is not None:
        logits = _logits(hidden_CD, weight, bias, settings)
        return kernel(logits, labels), logits
    log_probs, slope = _log_probs(hidden_CD, weight, bias, settings)
    losses = _losses(log_probs, labels)
    return losses, _logit_gradient(log_probs, slope, labels, None)


def _gradient_again(
    hidden_CD: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, upstream: Tensor, settings: _Settings
) -> Tensor:
    """Gradient [C, V] of one chunk's logits, which are made again, times the upstream gradient of each position."""
    if _in_place(hidden_CD, settings.softcap) is None:
        log_probs, slope = _log_probs(hidden_CD, weight, bias, settings)
        return _logit_gradient(log_probs, slope, labels, upstream)
    gradient = _losses_and_gradient(hidden_CD, weight, bias, labels, settings)[1]
    return gradient.mul_(upstream[:, None])  # in fp32, rounded once


class _ChunkedLosses(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, settings: _Settings
    ) -> Tensor:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        losses = torch.zeros(hidden.shape[0], dtype=dtype, device=hidden.device)
        kept = torch.empty_like(hidden) if settings.keep else None
        for start in range(0, hidden.shape[0], settings.chunk):
            part = slice(start, start + settings.chunk)
            if kept is None:
                losses[part] = _losses(_log_probs(hidden[part], weight, bias, settings)[0], labels[part])
                continue
            losses[part], gradient = _losses_and_gradient(hidden[part], weight, bias, labels[part], settings)
            kept[part] = _hidden_gradient(gradient.to(hidden.dtype), weight, settings)
            if settings.scale != 1.0:
                kept[part] *= settings.scale
        ctx.settings = settings
        # Kept or not, only what the backward pass reads is saved.
        ctx.save_for_backward(*((kept,) if kept is not None else (hidden, weight, bias, labels)))
        return losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.settings.keep:
            (kept,) = ctx.saved_tensors
            # In the accumulation dtype, so that an upstream gradient of many digits is not rounded first.
            return (kept * upstream[:, None]).to(kept.dtype), None, None, None, None
        hidden, weight, bias, labels = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        # Sums over chunks are held in fp32 for half-precision weights: chunking must not cost digits.
        grad_weight = torch.zeros_like(weight, dtype=upstream.dtype) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=upstream.dtype) if needs_bias else None
        scale = ctx.settings.scale
        for start in range(0, hidden.shape[0], ctx.settings.chunk):
            part = slice(start, start + ctx.settings.chunk)
            gradient = _gradient_again(hidden[part], weight, bias, labels[part], upstream[part], ctx.settings)
            if grad_bias is not None:
                grad_bias += gradient.sum(0, dtype=grad_bias.dtype)
            gradient = gradient.to(hidden.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = (gradient @ weight) * scale
            if grad_weight is not None:
                grad_weight += (gradient.t() @ hidden[part]) * scale
        return (
            grad_hidden,
            grad_weight.to(weight.dtype) if grad_weight is not None else None,
            grad_bias.to(bias.dtype) if grad_bias is not None else None,
            None,
            None,
        )
