"""Counting memory without having it: real code on tensors that have shapes and no numbers, and a ledger of what lives.

A model of fake tensors (`torch._subclasses`) runs the very layers, adapters, fused operations and losses that a run
will: what they keep for the backward pass is known by construction and not by a formula beside the code. Whole numbers
such as token ids and labels stay real, since they decide shapes.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

_INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index_put")
_NUMBER = "aten::_local_scalar_dense"
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm")
"""What PyTorch calls products of matrices."""


class Ledger(TorchDispatchMode):
    """A context that counts the bytes of the tensors which operations in it make, until they are given up.

    Views count nothing. What existed before the context, such as the weights, is not counted.

    Attributes:
        live: Bytes that live now.
        peak: The most that lived at once since the last ``restart``.
        products: The matrix products of half-precision numbers that differ in shape or layout.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.products: set[Any] = set()
        self._known: dict[int, int] = {}

    def restart(self) -> None:
        """Forget the peak, not what lives."""
        self.peak = self.live

    def knows(self, *tensors: Tensor) -> None:
        """Count these as living already."""
        for tensor in tensors:
            self._count(tensor)

    def ignore(self, tensors: Iterable[Tensor]) -> None:
        """Never count the storages of these."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()._cdata] = 0

    def __torch_dispatch__(self, operator: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operator.name().split(".")[0]
        if name == _NUMBER and isinstance(args[0], FakeTensor):  # a number that nobody knows, such as a norm
            return 1.0 if args[0].is_floating_point() else 1
        if name in _INDEXING:
            args = (args[0], _places(args[1]), *args[2:])
        if name in PRODUCTS and args[0].dtype in (torch.bfloat16, torch.float16):
            self.products.add((name, *((a.shape, a.stride()) for a in args if isinstance(a, Tensor))))
        result = operator(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = size
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._freed, key)

    def _freed(self, key: int) -> None:
        self.live -= self._known.pop(key, 0)


def _places(indices: Any) -> Any:
    """Masks of real numbers as the places where they are true: of these a fake tensor knows the number."""
    given: list[Any] = []
    for index in indices:
        if isinstance(index, Tensor) and not isinstance(index, FakeTensor) and index.dtype == torch.bool:
            given += index.nonzero(as_tuple=True)
        else:
            given.append(index)
    return given


def new_mode() -> FakeTensorMode:
    """The mode that fake tensors belong to; real numbers may meet them."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def faked_(model: nn.Module, mode: FakeTensorMode) -> None:
    """Put a fake tensor on the processor in the place of every parameter and buffer of a model on the meta device.

    Args:
        model: Its shapes; tied weights stay tied. A few real tensors among them become shapes too.
        mode: Theirs.
    """
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = _parameter(parameter, mode)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                known = faked(buffer, mode) if buffer.is_floating_point() else _whole(buffer)
                module._buffers[name] = known


def faked(tensor: Tensor, mode: FakeTensorMode) -> Tensor:
    """A fake tensor on the processor of a tensor's shape and format."""
    shape = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
    return FakeTensor(mode, shape, torch.device("cpu"))


def _whole(tensor: Tensor) -> Tensor:
    """Whole numbers, which decide shapes and are few: real ones."""
    return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor


def _parameter(parameter: nn.Parameter, mode: FakeTensorMode) -> nn.Parameter:
    made = nn.Parameter(faked(parameter, mode), requires_grad=parameter.requires_grad)
    state: Any = getattr(parameter, "quant_state", None)
    if state is not None:
        for part in (state, state.state2):
            for name, value in vars(part).items() if part is not None else ():
                if isinstance(value, Tensor):
                    setattr(part, name, faked(value, mode))
        made.quant_state = state  # type: ignore[attr-defined]
    return made
