"""How the two factors of LoRA start.

Shapes: W [D_out, D_in] the host's matrix, A [R, D_in], B [D_out, R], s the scale of the update.

`kaiming`, `gaussian`, `orthogonal` and `eva` start with ``B A = 0``. `pissa`, `olora` and `lora_ga` start with factors
whose product is not zero and is taken off the base, ``W - s B0 A0``. Here the base keeps its weights, and the adapter
computes ``s (B A - B0 A0)``: the same function, and the base comes back to the bit. `loftq` (in `lora_loftq`) starts
with a product that is meant to be there: what 4 bits lose of W.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Frame(NamedTuple):
    """What a start may look at.

    Attributes:
        matrix: Gives W [D_out, D_in] in fp32; a function, so that only those read it who need it.
        rank: R.
        sides: (D_in, D_out).
        scale: s.
        iterations: Power iterations of a truncated decomposition; None for an exact one.
    """

    matrix: Callable[[], Tensor]
    rank: int
    sides: tuple[int, int]
    scale: float
    iterations: int | None = None


Start = Callable[[Frame, torch.Generator], tuple[Tensor, Tensor]]


def kaiming(frame: Frame, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A Kaiming-uniform with a = sqrt(5), so between -1/sqrt(D_in) and 1/sqrt(D_in), and B zero, as in `peft`."""
    inner, outer = frame.sides
    bound = 1 / math.sqrt(inner)
    A = torch.empty(frame.rank, inner).uniform_(-bound, bound, generator=generator)
    return A, torch.zeros(outer, frame.rank)


def gaussian(frame: Frame, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A normal with standard deviation 1/R, B zero, as in `peft`; the paper says only "a random Gaussian"."""
    inner, outer = frame.sides
    return torch.randn(frame.rank, inner, generator=generator) / frame.rank, torch.zeros(outer, frame.rank)


def orthogonal(frame: Frame, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both factors random, with ``B A = 0``: they live on the even and on the odd rows of one orthogonal [R, R] matrix.

    As in `peft`, each is a standard normal [*, R/2] times R/2 of these rows, divided by 10. The product is zero but for
    rounding, about 1e-8.
    """
    inner, outer = frame.sides
    Q, _ = torch.linalg.qr(torch.randn(frame.rank, frame.rank, generator=generator, dtype=torch.float64))
    half = frame.rank // 2
    A = (torch.randn(inner, half, generator=generator).double() @ Q[0::2]).t() / 10
    B = torch.randn(outer, half, generator=generator).double() @ Q[1::2] / 10
    return A.float().contiguous(), B.float().contiguous()


def pissa(frame: Frame, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The principal singular values and vectors (Meng et al., 2024, arXiv:2404.02948, equations 2 to 4).

    With ``W = U S V^T``: ``B0 = U_R sqrt(S_R / s)`` and ``A0 = sqrt(S_R / s) V_R^T``, so ``s B0 A0`` is the best
    approximation of W of rank R.
    """
    W = frame.matrix()
    if frame.iterations is None:
        U, S, Vh = torch.linalg.svd(W, full_matrices=False)
        U, S, Vh = U[:, : frame.rank], S[: frame.rank], Vh[: frame.rank]
    else:
        U, S, Vh = truncated_svd(W, frame.rank, generator, frame.iterations)
    root = (S / frame.scale).sqrt()
    return root[:, None] * Vh, U * root


def olora(frame: Frame, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The first R columns and rows of ``W = Q R`` (Büyükakyüz, 2024, arXiv:2406.01775, algorithm 1)."""
    Q, R = torch.linalg.qr(frame.matrix())
    return R[: frame.rank].contiguous(), Q[:, : frame.rank].contiguous()


def truncated_svd(
    matrix: Tensor, rank: int, generator: torch.Generator, iterations: int = 4
) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values with their vectors, by subspace iteration (Halko et al., 2011, algorithm 4.4).

    Args:
        matrix: [M, N].
        rank: How many, K.
        generator: Draws the first subspace, of K + 8 directions.
        iterations: Each multiplies the error by the squared ratio of singular values inside and outside.

    Returns:
        U [M, K], S [K], V^T [K, N].
    """
    width = min(rank + 8, *matrix.shape)
    start = torch.randn(matrix.shape[1], width, generator=generator).to(matrix)
    Q, _ = torch.linalg.qr(matrix @ start)
    for _ in range(iterations):
        Z, _ = torch.linalg.qr(matrix.t() @ Q)
        Q, _ = torch.linalg.qr(matrix @ Z)
    U, S, Vh = torch.linalg.svd(Q.t() @ matrix, full_matrices=False)
    return (Q @ U)[:, :rank], S[:rank], Vh[:rank]


STARTS: Mapping[str, Start] = {
    "kaiming": kaiming,
    "gaussian": gaussian,
    "orthogonal": orthogonal,
    "pissa": pissa,
    "olora": olora,
    "eva": kaiming,  # until the data has been seen
    "lora_ga": kaiming,  # likewise
    "loftq": kaiming,  # until the whole weights have been seen
}
"""How the factors start, by the value of ``init``."""

LOFTQ = "loftq"
"""The start that needs a base of 4 bits, and its whole weights."""

RESIDUAL = frozenset({"pissa", "olora", "lora_ga"})
"""Starts whose product is taken off again."""

ANY_HOST = frozenset({"kaiming", "gaussian"})
"""Starts that fit embeddings and parts of fused matrices as well."""
