"""Bindings of `eight_bits.inc`: products of bf16 rows with matrices that were rounded to 8 bits.

Shapes: M rows, K inner width, G groups of 64 along it, N columns of the product, R numbers beside it.
"""

from __future__ import annotations

import ctypes
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from burnish.ops.native.library import library

GROUP, PANEL = 64, 48
"""Numbers of a row that share a scale, and rows of the matrix that lie side by side; as in the source."""

_PACK = {torch.bfloat16: "eight_bit_pack_bf16", torch.float32: "eight_bit_pack_f32"}


def _fields(**kinds: type) -> list[tuple[str, type]]:
    return list(kinds.items())


class _Rows(ctypes.Structure):
    _fields_ = _fields(codes=ctypes.c_void_p, scales=ctypes.c_void_p, start=ctypes.c_void_p, rows=ctypes.c_long,
                       groups=ctypes.c_long)  # fmt: skip


class _Matrix(ctypes.Structure):
    _fields_ = _fields(codes=ctypes.c_void_p, scales=ctypes.c_void_p, columns=ctypes.c_long)


class _End(ctypes.Structure):
    _fields_ = _fields(low=ctypes.c_void_p, up=ctypes.c_void_p, low_stride=ctypes.c_long, pairs=ctypes.c_long,
                       bias=ctypes.c_void_p, out=ctypes.c_void_p, out_stride=ctypes.c_long,
                       add=ctypes.c_long)  # fmt: skip


class Rows(NamedTuple):
    """Rows in 8 bits: ``x[m, k] = scales[m, k // 64] * codes[m, k]``, and what their sums start from.

    Attributes:
        codes: int8 [M, 64 G].
        scales: fp32 [M, G].
        start: int32 [M, G], -128 times the sum of the codes of a group.
    """

    codes: Tensor
    scales: Tensor
    start: Tensor


class Panels(NamedTuple):
    """A matrix W [N, K] in 8 bits: ``W[n, k] = scales[n] * (codes[n // 48, k // 4, n % 48, k % 4] - 128)``.

    Attributes:
        codes: uint8 [N / 48, 16 G, 48, 4], filled up with 128.
        scales: fp32 [N], filled up with zeros to a multiple of 48.
        columns: N.
    """

    codes: Tensor
    scales: Tensor
    columns: int


class Low(NamedTuple):
    """What is added in fp32 before a product is rounded: ``rows [M, R] @ up``.

    Attributes:
        rows: bf16.
        up: [R, N], two rows in a word, filled up to a multiple of 48 columns: `low_rank.paired`.
    """

    rows: Tensor
    up: Tensor


@lru_cache(maxsize=1)
def available() -> bool:
    """Whether the kernels are there, and the processor's instructions for products of 8 bits."""
    found = library()
    return found is not None and bool(found.eight_bits_available())


def round_rows(x_MK: Tensor) -> Rows:
    """Each group of 64 numbers of a row by its largest one; a group with a number that is not finite becomes NaN."""
    x_MK = x_MK if x_MK.stride(1) == 1 else x_MK.contiguous()
    rows, width = x_MK.shape
    groups = -(-width // GROUP)
    found = Rows(
        x_MK.new_empty(rows, groups * GROUP, dtype=torch.int8),
        x_MK.new_empty(rows, groups, dtype=torch.float32),
        x_MK.new_empty(rows, groups, dtype=torch.int32),
    )
    if not isinstance(x_MK, FakeTensor):
        _library().eight_bit_rows_bf16(_at(x_MK), *_longs(x_MK.stride(0), rows, width), *map(_at, found))
    return found


def pack(weight_NK: Tensor) -> Panels:
    """Each row of a matrix by its largest number; bf16 or fp32, any strides."""
    rows, width = weight_NK.shape
    panels, groups = -(-rows // PANEL), -(-width // GROUP)
    codes = weight_NK.new_empty(panels, groups * GROUP // 4, PANEL, 4, dtype=torch.uint8)
    scales = weight_NK.new_empty(panels * PANEL, dtype=torch.float32)
    if not isinstance(weight_NK, FakeTensor):
        function = getattr(_library(), _PACK[weight_NK.dtype])
        function(_at(weight_NK), *_longs(*weight_NK.stride(), rows, width), _at(codes), _at(scales))
    return Panels(codes, scales, rows)


def product(
    x: Rows, w: Panels, low: Low | None = None, bias: Tensor | None = None, into: Tensor | None = None
) -> Tensor:
    """``x W^T + low + bias`` in bf16, [M, N].

    Args:
        x: The rows.
        w: The matrix.
        low: A product beside it.
        bias: bf16 [N].
        into: Where it is added to what is there, and which is returned; a new tensor without it.
    """
    out = into if into is not None else x.codes.new_empty(len(x.codes), w.columns, dtype=torch.bfloat16)
    rows = low.rows if low is not None else None
    if rows is not None and rows.shape[1] % 2:
        rows = torch.nn.functional.pad(rows, (0, 1))
    up = low.up if low is not None else None
    if isinstance(out, FakeTensor):
        return out
    of_x = _Rows(*(t.data_ptr() for t in x), *x.scales.shape)
    of_w = _Matrix(w.codes.data_ptr(), w.scales.data_ptr(), w.columns)
    pairs, stride = (len(up), rows.stride(0)) if up is not None and rows is not None else (0, 0)
    end = _End(_address(rows), _address(up), stride, pairs, _address(bias), out.data_ptr(), out.stride(0),
               int(into is not None))  # fmt: skip
    _library().eight_bit_product_bf16(*map(ctypes.byref, (of_x, of_w, end)))
    return out


def _library() -> ctypes.CDLL:
    found = library()
    assert found is not None  # `available` was asked
    return found


def _longs(*values: int) -> tuple[ctypes.c_long, ...]:
    return tuple(map(ctypes.c_long, values))


def _at(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
