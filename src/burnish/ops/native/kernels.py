"""The compiled kernels as functions of tensors. Whoever calls has asked ``usable`` first.

Shapes: N rows, D width, F inner width, T tokens, H query heads, K key heads, E head width, C rows of logits, V their
vocabulary.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from burnish.ops.native.library import library

_SUFFIX = {torch.bfloat16: "bf16", torch.float32: "f32"}
_WIDEST_HEAD = 256
_NOWHERE = ctypes.c_void_p(None)


class Drop(NamedTuple):
    """Dropout of a kernel: a rate, and the seed that its mask is a function of, with the place of each number."""

    rate: float = 0.0
    seed: int = 0


NO_DROP = Drop()


class _Dropout(ctypes.Structure):
    """``Dropout`` of common.h."""

    _fields_ = [*((name, ctypes.c_uint32) for name in ("threshold", "low", "high")), ("grown", ctypes.c_float)]

    @classmethod
    def of(cls, drop: Drop) -> _Dropout:
        threshold = min(2**32 - 1, round(drop.rate * 2**32))
        return cls(threshold, drop.seed & 0xFFFFFFFF, drop.seed >> 32 & 0xFFFFFFFF, 1 / (1 - drop.rate))


class _Shape(ctypes.Structure):
    """``Shape`` of attention.inc."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("heads", "key_heads", "width", "tokens")),
        *((f"{name}_{kind}", ctypes.c_long) for name in "qkvo" for kind in ("token", "head")),
        ("causal", ctypes.c_long),
        ("window", ctypes.c_long),
        ("scale", ctypes.c_float),
        ("dropout", _Dropout),
    ]


def new_drop(rate: float) -> Drop:
    """Dropout of this rate with a seed from PyTorch's generator, which the loop seeds anew in every update."""
    return Drop(rate, int(torch.randint(2**62, ()))) if rate else NO_DROP


def usable(*tensors: Tensor) -> bool:
    """Whether the kernels can work on these: on the processor, of one format that they know, and they are there."""
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and first.dtype in _SUFFIX
        and all(t.dtype == first.dtype and t.device == first.device for t in tensors)
        and library() is not None
    )


def attention_usable(query: Tensor) -> bool:
    """Whether the attention kernel takes these queries [..., E]: bf16, E a multiple of 16, and the instructions."""
    width = query.shape[-1]
    fits = query.dtype == torch.bfloat16 and width % 16 == 0 and width <= _WIDEST_HEAD
    return fits and usable(query) and attention_available()


@lru_cache(maxsize=1)
def attention_available() -> bool:
    """Whether the processor has what attention and narrow products are made of."""
    found = library()
    return found is not None and bool(found.attention_available())


def rms_norm(
    x_ND: Tensor, delta_ND: Tensor | None, weight_D: Tensor, eps: float, offset: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``s = x + delta`` (x itself without one), ``y = (offset + w) * s * rstd`` and ``rstd`` [N]."""
    rows, width = x_ND.shape
    y, rstd = torch.empty_like(x_ND), torch.empty(rows, dtype=torch.float32)
    total = torch.empty_like(x_ND) if delta_ND is not None else x_ND
    # fmt: off
    _call("rms_norm_forward", x_ND, _at(x_ND), _at(delta_ND), _at(weight_D), _at(total), _at(y), _at(rstd), rows, width,
          ctypes.c_float(eps), ctypes.c_float(offset))
    # fmt: on
    return total, y, rstd


def rms_norm_gradient(
    upstream: Tensor, x_ND: Tensor, weight_D: Tensor, rstd_N: Tensor, through: Tensor | None, offset: float
) -> Tensor:
    """Gradient of x; ``through`` is added."""
    out = torch.empty_like(x_ND)
    # fmt: off
    _call("rms_norm_backward", x_ND, _at(upstream), _at(x_ND), _at(weight_D), _at(rstd_N), _at(through), _at(out),
          *x_ND.shape, ctypes.c_float(offset))
    # fmt: on
    return out


def swiglu(gate_NF: Tensor, up_NF: Tensor) -> Tensor:
    """``silu(gate) * up``."""
    out = torch.empty_like(gate_NF)
    _call("swiglu_forward", gate_NF, _at(gate_NF), _at(up_NF), _at(out), *gate_NF.shape, gate_NF.stride(0))
    return out


def swiglu_gradient(upstream: Tensor, gate_NF: Tensor, up_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of gate and up."""
    grad_gate, grad_up = torch.empty_like(gate_NF), torch.empty_like(up_NF)
    # fmt: off
    _call("swiglu_backward", gate_NF, _at(upstream), _at(gate_NF), _at(up_NF), _at(grad_gate), _at(grad_up),
          *gate_NF.shape, gate_NF.stride(0))
    # fmt: on
    return grad_gate, grad_up


def rotate_(x_TD: Tensor, cosine_TE: Tensor, sine_TE: Tensor, width: int, sign: float) -> Tensor:
    """Rotate every head of ``width`` in place; the angles may cover its first numbers only."""
    tokens, turned = cosine_TE.shape
    # fmt: off
    _call("rotary", x_TD, _at(x_TD), _at(cosine_TE), _at(sine_TE), tokens, x_TD.shape[1] // width, width, turned // 2,
          x_TD.stride(0), ctypes.c_float(sign))
    # fmt: on
    return x_TD


def dropout(x: Tensor, drop: Drop) -> Tensor:
    """``x`` with the mask of a drop, of any shape; contiguous."""
    out = torch.empty_like(x)
    width = x.shape[-1] if x.dim() else 1
    rows = x.numel() // max(1, width)
    _call("dropout", x, _at(x), _at(out), rows, width, ctypes.byref(_Dropout.of(drop)))
    return out


def layer_norm(
    x_ND: Tensor, residual_ND: Tensor, weight_D: Tensor, bias_D: Tensor, eps: float, drop: Drop
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``s = residual + dropout(x)``, its layer norm, and the mean and 1 / deviation of every row."""
    rows, width = x_ND.shape
    total, y = torch.empty_like(x_ND), torch.empty_like(x_ND)
    mean, rstd = torch.empty(rows, dtype=torch.float32), torch.empty(rows, dtype=torch.float32)
    # fmt: off
    _call("layer_norm_forward", x_ND, *map(_at, (x_ND, residual_ND, weight_D, bias_D, total, y, mean, rstd)), rows,
          width, ctypes.c_float(eps), ctypes.byref(_Dropout.of(drop)))
    # fmt: on
    return total, y, mean, rstd


def layer_norm_gradient(
    upstream: Tensor,
    total_ND: Tensor,
    weight_D: Tensor,
    mean_N: Tensor,
    rstd_N: Tensor,
    drop: Drop,
    through_ND: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and of the residual; one tensor where nothing is dropped. ``through`` reaches ``s`` itself."""
    grad = torch.empty_like(total_ND)
    inner = torch.empty_like(total_ND) if drop.rate else None
    read = (upstream, total_ND, weight_D, mean_N, rstd_N, through_ND)
    # fmt: off
    _call("layer_norm_backward", total_ND, *map(_at, (*read, grad, inner)), *total_ND.shape,
          ctypes.byref(_Dropout.of(drop)))
    # fmt: on
    return inner if inner is not None else grad, grad


def gelu(x_NF: Tensor) -> Tensor:
    """``x Phi(x)``."""
    out = torch.empty_like(x_NF)
    _call("gelu_forward", x_NF, _at(x_NF), _at(out), *x_NF.shape)
    return out


def gelu_gradient_(upstream: Tensor, x_NF: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of x, in the place of the upstream one, and ``x Phi(x)`` again."""
    again = torch.empty_like(x_NF)
    _call("gelu_backward", x_NF, _at(upstream), _at(x_NF), _at(upstream), _at(again), *x_NF.shape)
    return upstream, again


def softmax_gradient_(logits_CV: Tensor, labels_C: Tensor, *, gradient: bool) -> Tensor:
    """Losses [C]; the logits are overwritten with ``softmax - onehot`` if ``gradient``. A label below 0 gives zeros."""
    losses = torch.empty(logits_CV.shape[0], dtype=torch.float32)
    _call("softmax_gradient", logits_CV, _at(logits_CV), _at(labels_C), _at(losses), *logits_CV.shape, int(gradient))
    return losses


def four_bit_codes(x: Tensor, bounds: Tensor, names: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Two codes a byte of fp32 numbers in blocks, and the largest absolute value of each block.

    Args:
        x: The numbers, contiguous, a whole number of blocks.
        bounds: [15] what parts the codes, rising.
        names: [16] the code of each place among them.
        block: Numbers of a block, a multiple of 32.
    """
    blocks = x.numel() // block
    codes, largest = torch.empty(x.numel() // 2, dtype=torch.uint8), torch.empty(blocks, dtype=torch.float32)
    _call("four_bit_codes", x, *map(_at, (x, bounds, names, codes, largest)), blocks, block)
    return codes, largest


def attention(
    query_THE: Tensor,
    key_TKE: Tensor,
    value_TKE: Tensor,
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
    window: int | None,
    drop: Drop = NO_DROP,
) -> tuple[Tensor, Tensor]:
    """Attention within each row of a pack: output [T, H, E], and the log of the softmax's sums [H, T]."""
    tokens, heads, width = query_THE.shape
    output = query_THE.new_empty(tokens, heads, width)
    logsum = torch.empty(heads, tokens, dtype=torch.float32)
    offsets = _offsets(lengths)
    shape = _shape(query_THE, key_TKE, value_TKE, output, causal, scale, window, drop)
    # fmt: off
    _call("attention_forward", None, _at(query_THE), _at(key_TKE), _at(value_TKE), _at(output), _at(logsum),
          _at(offsets), len(lengths), ctypes.byref(shape))
    # fmt: on
    return output, logsum


def attention_gradient(
    upstream: Tensor,
    saved: tuple[Tensor, Tensor, Tensor, Tensor],
    lengths: Sequence[int],
    *,
    causal: bool,
    scale: float,
    window: int | None,
    drop: Drop = NO_DROP,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, from what ``attention`` took and gave: query, key, value, logsum."""
    query, key, value, logsum = saved
    # gradients lie as the tensors that they belong to
    grads = tuple(torch.empty_like(t) for t in (query, key, value))
    if any(g.stride() != t.stride() for g, t in zip(grads, (query, key, value), strict=True)):
        raise ValueError("attention tensors with gaps or overlaps: make them contiguous")
    offsets = _offsets(lengths)
    shape = _shape(query, key, value, upstream, causal, scale, window, drop)
    # fmt: off
    _call("attention_backward", None, _at(query), _at(key), _at(value), _at(upstream), _at(logsum), *map(_at, grads),
          _at(offsets), len(lengths), ctypes.byref(shape))
    # fmt: on
    return grads  # type: ignore[return-value]  # three of them


def _offsets(lengths: Sequence[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def _shape(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, causal: bool, scale: float, window: int | None, drop: Drop
) -> _Shape:
    strides = [s for t in (q, k, v, o) for s in t.stride()[:2]]
    return _Shape(
        q.shape[1], k.shape[1], q.shape[2], q.shape[0], *strides, int(causal), window or 0, scale, _Dropout.of(drop)
    )


def _at(tensor: Tensor | None) -> ctypes.c_void_p:
    if isinstance(tensor, FakeTensor):  # a plan: the shapes are right, and there are no numbers to compute with
        return _NOWHERE
    return ctypes.c_void_p(tensor.data_ptr() if tensor is not None else None)


def _call(name: str, like: Tensor | None, *arguments: object) -> None:
    found = library()
    assert found is not None  # `usable` was asked
    if any(a is _NOWHERE for a in arguments):
        return
    function = getattr(found, name if like is None else f"{name}_{_SUFFIX[like.dtype]}")
    given = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    if like is None:
        function.restype = ctypes.c_long
        if function(*given):
            raise MemoryError("not enough memory: the attention kernel could not get its workspace")
    else:
        function.restype = None
        function(*given)
