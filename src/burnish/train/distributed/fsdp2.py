"""Fully sharded data parallel, PyTorch's second (`fully_shard`): each process holds a share of every weight.

A layer's weights are gathered when it is called, forward and backward, and let go behind it; frozen ones are shared
out as well. Gradients arrive as sums, each process with its share of them, and so do the optimiser's moments.

A process copies its share of a weight out of the mapped file, and nothing else of it; in the end frozen weights are
those of the file again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from burnish.checkpoint.optimizer import load_state_tensors, state_tensors
from burnish.core.errors import UserError
from burnish.models.anatomy import layers
from burnish.train.distributed.config import DistributedConfig
from burnish.train.distributed.engine import Engine, Keeps, Named, Whole, always, broadcast_, kept
from burnish.train.distributed.group import Group
from burnish.train.precision import DTYPES

T = TypeVar("T")


class FullySharded(Engine):
    """Weights, gradients and moments in shares, through `fully_shard`.

    Args:
        group: The processes.
        settings: The recipe's section: formats in which weights are gathered and gradients summed.
    """

    sharded = True
    parts_weights = True

    def __init__(self, group: Group, settings: DistributedConfig) -> None:
        super().__init__(group)
        self.policy = policy(settings)
        self._mapped: dict[tuple[int, str], nn.Parameter] = {}
        self.device = torch.device("cpu")
        self.module: Any = None
        self.parts: list[Any] = []
        self._before: list[tuple[nn.Module, type, dict[str, set[int]]]] = []

    def prepare(self, whole: Whole, trainable: Named) -> None:
        super().prepare(whole, trainable)
        broadcast_([parameter for _, parameter in trainable])
        self.device = device = trainable[0][1].device
        mesh = init_device_mesh(device.type, (self.group.size,))
        self.module, self.parts = whole, [*layers_of(whole), whole]
        self._before = [(module, type(module), hooks_of(module)) for module in whole.modules()]
        self._mapped = frozen(whole, trainable) if whole.mapped else {}
        for layer in self.parts[:-1]:
            layer.register_forward_hook(_in_memory_of_its_own)
        for part in self.parts:
            fully_shard(part, mesh=mesh, ignored_params=_coded(part), mp_policy=self.policy)
            part.set_gradient_divide_factor(1.0)  # the loss is divided by the units of all processes already
            part.set_force_sum_reduction_for_comms(True)

    def run(self, work: Callable[[], T]) -> T:
        result: T = self.module(work)
        return result

    def look(self, work: Callable[[], T]) -> T:
        if self.module is None:
            return work()
        result = self.run(work)
        self.module.reshard()  # or a weight that is loaded next would not be seen
        return result

    def clip(self, trainable: Named, most: float | None) -> float:
        grads = [p.grad for _, p in trainable if p.grad is not None]
        norm: Any = nn.utils.get_total_norm(grads)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if most:
            nn.utils.clip_grads_with_norm_([p for _, p in trainable], most, norm)
        return float(norm)

    def whole(self, tensor: Tensor) -> Tensor:
        return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        return None if parameter.grad is None else self.whole(parameter.grad)

    def local(self, tensor: Tensor) -> Tensor:
        return tensor.to_local() if isinstance(tensor, DTensor) else tensor

    @torch.no_grad()
    def put(self, target: Tensor, value: Tensor) -> None:
        target.copy_(_shared_out(value, target) if isinstance(target, DTensor) else value)

    def moments(self, optimizer: torch.optim.Optimizer, trainable: Named, keeps: Keeps = always) -> dict[str, Tensor]:
        parted = state_tensors(optimizer, trainable)
        # one after the other: a process that does not keep a tensor has it for a moment
        return {full: kept(full, self.whole(part), keeps) for full, part in parted.items()}

    def load_moments(self, optimizer: torch.optim.Optimizer, trainable: Named, tensors: Mapping[str, Tensor]) -> None:
        load_state_tensors(optimizer, trainable, tensors)
        for _, parameter in trainable:
            state = optimizer.state.get(parameter, {})
            for key, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape and isinstance(parameter, DTensor):
                    state[key] = _shared_out(value, parameter)

    @torch.no_grad()
    def release(self) -> None:
        for part in self.parts:
            part.reshard()
        plain: dict[int, nn.Parameter] = {}  # tied weights stay tied
        for module, own, hooks in self._before:
            for name, parameter in module._parameters.items():
                if isinstance(parameter, DTensor) and (id(module), name) in self._mapped:
                    module._parameters[name] = self._mapped[id(module), name]
                elif isinstance(parameter, DTensor):
                    if id(parameter) not in plain:
                        value = self.whole(parameter).to(self.device)
                        plain[id(parameter)] = nn.Parameter(value, requires_grad=parameter.requires_grad)
                    module._parameters[name] = plain[id(parameter)]
            module.__class__ = own
            for kind, known in hooks.items():
                for key in [key for key in getattr(module, kind) if key not in known]:
                    del getattr(module, kind)[key]
        self.module, self.parts, self._before, self._mapped = None, [], [], {}


def policy(settings: DistributedConfig) -> MixedPrecisionPolicy:
    """The formats in which weights are gathered and gradients are summed; without a word of them, those they have."""
    gathered, summed = settings.param_dtype, settings.reduce_dtype
    if gathered == summed == "fp32":
        return MixedPrecisionPolicy(cast_forward_inputs=False)
    kept = None if gathered == "fp32" else DTYPES[gathered]
    return MixedPrecisionPolicy(param_dtype=kept, reduce_dtype=DTYPES[summed], cast_forward_inputs=False)


def frozen(whole: Whole, trainable: Named) -> dict[tuple[int, str], nn.Parameter]:
    """The weights that are never trained, by the number of their module and their name in it."""
    trained = {id(parameter) for _, parameter in trainable}
    return {
        (id(module), name): parameter
        for module in whole.modules()
        for name, parameter in module._parameters.items()
        if parameter is not None and id(parameter) not in trained
    }


HOOKS = (
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_state_dict_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)
"""Where a module keeps what is called beside it; `fully_shard` adds some, and has no word for taking them off."""


def hooks_of(module: nn.Module) -> dict[str, set[int]]:
    """The keys of a module's hooks, by kind."""
    return {kind: set(getattr(module, kind)) for kind in HOOKS}


def _in_memory_of_its_own(module: nn.Module, args: Any, output: Any) -> Tensor | None:
    """A layer's output, copied where it is a view (fused layers give one): were it changed in place by what comes next,
    its weights would not be gathered again for the backward pass.
    """
    return output.clone() if isinstance(output, Tensor) and output._is_view() else None


def _shared_out(value: Tensor, like: DTensor) -> DTensor:
    """A whole value in shares like those of another tensor; every process takes its own, nothing is sent."""
    device = like.to_local().device
    return distribute_tensor(value.to(device), like.device_mesh, like.placements, src_data_rank=None)


def _coded(part: nn.Module) -> set[nn.Parameter]:
    """Weights of few bits: their constants belong to the whole weight, so every process keeps them whole."""
    return {p for p in part.parameters() if not p.is_floating_point()}


def layers_of(whole: Whole) -> list[nn.Module]:
    """The layers of a model: what is gathered at a time.

    Raises:
        UserError: The model has none, so that it could be gathered as a whole only.
    """
    found = [module for _, module in layers(whole.model)]  # type: ignore[arg-type]
    if not found:
        raise UserError(
            "no layers are found in this model, so its weights cannot be gathered layer by layer",
            where="distributed.engine",
            fix="use `distributed.engine=ddp`, which keeps all weights in every process",
        )
    return found
