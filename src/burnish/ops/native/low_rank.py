"""Bindings of `low_rank.inc`: products of a long bf16 matrix with a narrow one.

Shapes: N rows, K width, R rank.
"""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from burnish.ops.native.kernels import attention_available
from burnish.ops.native.library import library

_PAIR = {torch.bfloat16: "pair_bf16", torch.float32: "pair_f32"}
_LANES, _BLOCK = 16, 8


def usable(x_NK: Tensor, narrow: Tensor) -> bool:
    """Whether the kernels take such a long matrix, bf16 on a processor with its instructions, and such a narrow one."""
    fits = x_NK.dtype == torch.bfloat16 and x_NK.device.type == "cpu" and x_NK.shape[1] % 2 == 0
    return fits and x_NK.stride(1) == 1 and narrow.dtype in _PAIR and attention_available()


def paired(matrix_KR: Tensor, scale: float = 1.0, multiple: int = _LANES) -> Tensor:
    """Rows 2k and 2k + 1 of ``scale * matrix`` in bf16, side by side in a word: int32 [K / 2, R], filled up with zeros.

    Args:
        matrix_KR: bf16 or fp32, any strides.
        scale: The factor.
        multiple: What R is filled up to a multiple of.
    """
    inner, outer = matrix_KR.shape
    padded = outer + -outer % multiple
    out = matrix_KR.new_empty((inner + 1) // 2, padded, dtype=torch.int32)
    if not isinstance(out, FakeTensor):
        # fmt: off
        _call(_PAIR[matrix_KR.dtype], _at(matrix_KR), *matrix_KR.stride(), inner, outer, padded, ctypes.c_float(scale),
              _at(out))
        # fmt: on
    return out


def narrow_product(x_NK: Tensor, matrix_RK: Tensor, scale: float, out: Tensor) -> Tensor:
    """``scale * x matrix^T`` in bf16 into ``out`` [N, R]; the matrix is rounded to bf16 after scaling."""
    rank, pairs = len(matrix_RK), paired(matrix_RK.t(), scale)
    if not isinstance(out, FakeTensor):
        # fmt: off
        _call("narrow_product_bf16", _at(x_NK), x_NK.stride(0), len(x_NK), len(pairs), _at(pairs), pairs.shape[1], rank,
              _at(out), out.stride(0))
        # fmt: on
    return out


def outer_product(low_NR: Tensor, x_NK: Tensor) -> Tensor:
    """``low^T x`` in fp32, [R, K]."""
    rank, pairs = low_NR.shape[1], paired(low_NR)
    out = x_NK.new_empty(rank + -rank % _BLOCK, x_NK.shape[1], dtype=torch.float32)
    if not isinstance(out, FakeTensor):
        # fmt: off
        _call("outer_product_bf16", _at(pairs), pairs.shape[1], len(out), _at(x_NK), x_NK.stride(0), *x_NK.shape,
              _at(out))
        # fmt: on
    return out[:rank]


def _call(name: str, *arguments: object) -> None:
    found = library()
    assert found is not None  # `usable` was asked
    getattr(found, name)(*(ctypes.c_long(a) if isinstance(a, int) else a for a in arguments))


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())
