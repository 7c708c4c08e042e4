"""Losses of a chunk of logits, which become their own gradient. Shapes: C positions, V vocabulary."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

IGNORE = -100
MOST = 8192
"""Numbers of a row that a program holds at a time."""


def softmax_gradient_(logits_CV: Tensor, labels_C: Tensor, softcap: float | None = None) -> Tensor:
    """Negative log-likelihoods; the logits are overwritten with the gradient of each row's own loss.

    With ``z = x``, or ``z = c tanh(x / c)`` under a soft cap, and ``m = max z``:

        loss = m + log sum_j exp(z_j - m) - z_y,    x_j <- (exp(z_j - m) / sum - 1[j = y]) (1 - tanh(x_j / c)^2).

    One program reads a row twice, in blocks: the first time the maximum and the sum are kept together, the sum scaled
    down whenever the maximum rises (Milakov and Gimelshein, 2018, algorithm 3). Sums are fp32; the gradient is rounded
    to the format of the logits.

    Args:
        logits_CV: Contiguous rows; overwritten.
        labels_C: Token ids; at -100 the loss and the row's gradient are 0.
        softcap: The cap c.

    Returns:
        Losses in nats, [C], fp32.

    Raises:
        ValueError: Shapes do not fit, or the logits are not contiguous.
    """
    if logits_CV.ndim != 2 or labels_C.shape != logits_CV.shape[:1] or not logits_CV.is_contiguous():
        raise ValueError(f"contiguous logits [C, V] and labels [C], not {tuple(logits_CV.shape)} and {labels_C.shape}")
    rows, vocabulary = logits_CV.shape
    losses = torch.zeros(rows, dtype=torch.float32, device=logits_CV.device)
    block = min(MOST, triton.next_power_of_2(vocabulary))
    with torch.cuda.device_of(logits_CV):
        if rows:
            _softmax_gradient[(rows,)](
                logits_CV, labels_C.contiguous(), losses, softcap or 1.0,
                VOCABULARY=vocabulary, IGNORED=IGNORE, CAPPED=softcap is not None, BLOCK=block,
                num_warps=min(16, max(1, block // 256)),
            )  # fmt: skip
    return losses


@triton.jit
def _capped(x, cap):
    """``c tanh(x / c)`` and its slope; tanh by way of the sigmoid, ``tanh(u) = 2 sigmoid(2 u) - 1``."""
    t = 2.0 * tl.sigmoid(2.0 * x / cap) - 1.0
    return cap * t, 1.0 - t * t


@triton.jit
def _softmax_gradient(
    logits_ptr, labels_ptr, losses_ptr, cap,
    VOCABULARY: tl.constexpr, IGNORED: tl.constexpr, CAPPED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    label = tl.load(labels_ptr + row)
    start = logits_ptr + row * VOCABULARY
    columns = tl.arange(0, BLOCK)
    largest = -float("inf")
    total = 0.0
    for begin in range(0, VOCABULARY, BLOCK):
        z = tl.load(start + begin + columns, mask=begin + columns < VOCABULARY, other=-float("inf")).to(tl.float32)
        if CAPPED:
            capped, _slope = _capped(z, cap)
            z = tl.where(begin + columns < VOCABULARY, capped, -float("inf"))
        above = tl.maximum(largest, tl.max(z, axis=0))
        total = total * tl.exp(largest - above) + tl.sum(tl.exp(z - above), axis=0)
        largest = above
    trained = label != IGNORED
    if trained:
        chosen = tl.load(start + label).to(tl.float32)
        if CAPPED:
            chosen, _slope = _capped(chosen, cap)
        tl.store(losses_ptr + row, largest + tl.log(total) - chosen)
    for begin in range(0, VOCABULARY, BLOCK):
        inside = begin + columns < VOCABULARY
        z = tl.load(start + begin + columns, mask=inside, other=0.0).to(tl.float32)
        slope = tl.full([BLOCK], 1.0, dtype=tl.float32)
        if CAPPED:
            z, slope = _capped(z, cap)
        gradient = (tl.exp(z - largest) / total - tl.where(begin + columns == label, 1.0, 0.0)) * slope
        gradient = tl.where(trained, gradient, 0.0)
        tl.store(start + begin + columns, gradient.to(logits_ptr.dtype.element_ty), mask=inside)
