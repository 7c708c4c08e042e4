"""Weights of 8 bits: each row of a matrix as whole numbers from -127 to 127 and one constant, its largest value.

``w = c q / 127`` with ``c = max |w|`` of the row and ``q = round(127 w / c)``, the row-wise codes of LLM.int8()
(Dettmers et al., 2022, arXiv:2208.07339, section 3.1). Only the weights are kept so: the activations stay in the
format of the run, where LLM.int8() rounds them to 8 bits on every pass and computes their outliers apart. An unpacked
weight is off by half a step at most, ``c / 254``. No library is needed; the codes are those of `bitsandbytes`.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from burnish.ops.projections import Projection, project

LARGEST = 127


class EightBitLinear(nn.Linear):
    """A frozen linear map of codes; products unpack the matrix to the format that they are computed in.

    Attributes:
        constants: [D_out] the largest absolute value of each row.
        compute_dtype: Format of the products, None for that of the input.

    Args:
        matrix: W [D_out, D_in].
        bias: b [D_out], or None.
        compute: Format of the products, None for that of the input.
    """

    def __init__(self, matrix: Tensor, bias: Tensor | None, compute: torch.dtype | None) -> None:
        super().__init__(matrix.shape[1], matrix.shape[0], bias is not None, device="meta")
        codes, constants = codes_of(matrix)
        self.compute_dtype = compute
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("constants", constants)
        self.constants: Tensor
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """``x W^T + b`` in the format of the input."""
        compute = self.compute_dtype or x.dtype
        bias = self.bias.to(compute) if self.bias is not None else None
        (output,) = project(x.to(compute), [Projection(self.weight, bias, decode=partial(unpacked, self))])
        return output.to(x.dtype)


def codes_of(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Codes [D_out, D_in] and the constant of each row; a row of zeros has the constant 0."""
    constants = matrix.float().abs().amax(1)
    steps = (LARGEST / constants.clamp_min(torch.finfo(torch.float32).tiny))[:, None]
    return (matrix.float() * steps).round().clamp(-LARGEST, LARGEST).to(torch.int8), constants


def unpacked(host: EightBitLinear, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight as a matrix [D_out, D_in]; a new tensor on every call."""
    return (host.weight.float() * (host.constants / LARGEST)[:, None]).to(dtype)
