"""Products of a long matrix with a narrow one: those of low-rank updates.

Shapes: N rows, K width, R rank.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from burnish.ops.native import low_rank as kernels


def narrow_product(x_NK: Tensor, matrix_RK: Tensor, scale: float = 1.0, out: Tensor | None = None) -> Tensor:
    """``scale * x matrix^T`` in the format of x, [N, R]; scaled before the matrix is rounded to it."""
    if kernels.usable(x_NK, matrix_RK):
        out = x_NK.new_empty(len(x_NK), len(matrix_RK)) if out is None else out
        return kernels.narrow_product(x_NK, matrix_RK, scale, out)
    found = F.linear(x_NK, (matrix_RK * scale if scale != 1.0 else matrix_RK).to(x_NK.dtype))
    return found if out is None else out.copy_(found)


def outer_product(low_NR: Tensor, x_NK: Tensor) -> Tensor:
    """``low^T x``, [R, K], in fp32 where a kernel computes it, else in the format of x."""
    return kernels.outer_product(low_NR, x_NK) if kernels.usable(x_NK, low_NR) else low_NR.t() @ x_NK
