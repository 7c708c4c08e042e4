"""ZeRO (Rajbhandari et al., 2020) by DeepSpeed: moments, gradients and weights in shares, by stage 1, 2 and 3.

An engine of DeepSpeed is made for each stage of a training, over what that stage trains: what waits keeps its weights
and moments as they are, and an AdamW over flat shares would move them by their old means. Weights and moments pass
from one to the next by parameter name. They are read from the flat shares themselves (`flat.py`): the links that
DeepSpeed keeps from parameters to them are lost with an engine that is collected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from burnish.core.errors import UserError
from burnish.models.anatomy import layers
from burnish.train.distributed.compiled import compile_sums
from burnish.train.distributed.config import DistributedConfig
from burnish.train.distributed.engine import Engine, Keeps, Named, Whole, always, broadcast_, kept
from burnish.train.distributed.flat import FLAT, Flat
from burnish.train.distributed.group import Group
from burnish.train.distributed.on_disk import Disk

T = TypeVar("T")
MAIN_KEYS = ("exp_avg", "exp_avg_sq")


class Zero(Engine):
    """An engine of DeepSpeed.

    Args:
        group: The processes.
        stage: 1, 2 or 3.
        settings: The recipe's section: what waits in the host's memory or on a disk, the format of sums.
        max_grad_norm: Gradients are scaled down to this norm, which DeepSpeed does in its step.
    """

    sharded = True
    foresees = False

    def __init__(self, group: Group, stage: int, settings: DistributedConfig, max_grad_norm: float | None) -> None:
        super().__init__(group)
        self.stage, self.settings, self.max_grad_norm = stage, settings, max_grad_norm
        self.disk = Disk(settings.offload_folder) if settings.offload_folder else None
        self.rehearses, self.parts_weights = stage < 3, stage == 3
        self._mapped: dict[int, Tensor] = {}
        self.deepspeed = imported(group)
        self.flat: Flat = FLAT[stage]
        self.whole_module: Any = None
        self.engine: Any = None
        self.client: Any = None
        self.facade = SimpleNamespace(param_groups=[], state={})
        self.named: dict[str, nn.Parameter] = {}
        self.waiting: dict[str, Tensor] = {}
        self._gradients: dict[int, Tensor] | None = None
        self._left, self._stale = 0, False

    def prepare(self, whole: Whole, trainable: Named) -> None:
        super().prepare(whole, trainable)
        broadcast_([parameter for _, parameter in trainable])
        self.whole_module, self.named = whole, dict(trainable)
        if self.stage == 3:
            trained = {id(p) for p in self.named.values()}
            kept = whole.parameters() if whole.mapped else ()
            self._mapped = {id(p): p.data for p in kept if id(p) not in trained}
            embedding: nn.Module = whole.model.get_input_embeddings()  # type: ignore[operator]  # one of transformers
            embedding.register_forward_hook(_starts_the_graph)

    def optimizing(self, optimizer: torch.optim.Optimizer, trainable: Named) -> torch.optim.Optimizer:
        self.client = optimizer
        self.facade.param_groups = optimizer.param_groups
        return self.facade  # type: ignore[return-value]  # the loop sets rates in its groups and asks for nothing else

    def enter_stage(self, names: frozenset[str]) -> None:
        moments = self.moments(self.client, list(self.named.items()))
        self._close()
        self.waiting = moments
        chosen = {name: p for name, p in self.named.items() if name in names}
        groups = grouped(self.client, chosen, moments)
        made = type(self.client)(groups, **{k: self.client.defaults[k] for k in ("lr", "betas", "eps")})
        for parameter in self.named.values():
            parameter.requires_grad_(False)
        for parameter in chosen.values():
            parameter.requires_grad_(True)
        if self.stage == 3:
            self.deepspeed.utils.set_z3_leaf_modules(self.whole_module, leaf_classes(self.whole_module))
        with unwritten(self.deepspeed.comm) if self._mapped else nullcontext():
            self.engine, *_ = self.deepspeed.initialize(
                model=self.whole_module, optimizer=made, config=settings(self), dist_init_required=False
            )
        if self.stage == 3:
            self._announce_outer_weights()
        self.facade.param_groups = self.engine.optimizer.param_groups
        self._give(moments)
        if self.disk:
            self._move_to(self.disk)

    def run(self, work: Callable[[], T]) -> T:
        if self.engine is None:
            return work()
        self.engine.set_gradient_accumulation_boundary(self._left == 1)
        result: T = self.engine(work)
        return result

    def look(self, work: Callable[[], T]) -> T:
        if self.engine is None or self.stage < 3:
            return work()
        result: T = self.whole_module(work)
        return result

    def begin(self, trainable: Named, passes: int) -> None:
        self._left, self._gradients = passes, None
        if self._stale:
            self.engine.optimizer.refresh_fp32_params()
            self._stale = False

    def backward(self, loss: Tensor) -> None:
        if self.engine is None:  # a rehearsal
            loss.backward()
            return
        # DeepSpeed takes means over the processes, and the loss is divided by the units of all of them already
        self.engine.backward(loss * self.group.size, scale_wrt_gas=False)
        self._left -= 1

    def clip(self, trainable: Named, most: float | None) -> float:
        norm = self.flat.norm(self.engine.optimizer)
        return norm if norm >= 0 else float("inf")  # -1 is its word for one that is not finite

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        self.engine.step()

    def clear(self, optimizer: torch.optim.Optimizer) -> None:
        self._gradients = None

    def whole(self, tensor: Tensor) -> Tensor:
        if self.stage < 3 or self.engine is None or not hasattr(tensor, "ds_id"):
            return tensor.detach()
        with self.deepspeed.zero.GatheredParameters([tensor]):
            return tensor.detach().clone()

    def gradient(self, parameter: nn.Parameter) -> Tensor | None:
        if self.engine is None:
            return parameter.grad
        if self._gradients is None:
            optimizer = self.engine.optimizer
            self._gradients = {
                id(p): whole
                for i in range(len(self.flat.masters(optimizer)))
                for p, whole in self.flat.spread(optimizer, i, self.flat.gradients(optimizer, i))
            }
        return self._gradients.get(id(parameter))

    @torch.no_grad()
    def put(self, target: Tensor, value: Tensor) -> None:
        if self.engine is not None:
            self._stale = True
        if self.stage == 3 and hasattr(target, "ds_id") and self.engine is not None:
            with self.deepspeed.zero.GatheredParameters([target], modifier_rank=0):
                target.copy_(value)
            return
        target.copy_(value)

    def moments(self, optimizer: torch.optim.Optimizer, trainable: Named, keeps: Keeps = always) -> dict[str, Tensor]:
        found = {full: kept(full, tensor, keeps) for full, tensor in self.waiting.items()}
        if self.engine is None:
            return found
        names = {id(p): name for name, p in self.named.items()}
        inner = self.engine.optimizer
        for i, master in enumerate(self.flat.masters(inner)):
            state = inner.optimizer.state.get(master, {})
            if "exp_avg" not in state:
                continue
            for key in MAIN_KEYS:
                for parameter, whole in self.flat.spread(inner, i, state[key]):
                    name = names[id(parameter)]
                    found[f"{key}:{name}"] = whole.to("cpu" if keeps(name) else "meta")
            for parameter in self.flat.members(inner, i):
                full = f"step:{names[id(parameter)]}"
                found[full] = kept(full, torch.as_tensor(state["step"]).float().cpu().clone(), keeps)
        return found

    def load_moments(self, optimizer: torch.optim.Optimizer, trainable: Named, tensors: Mapping[str, Tensor]) -> None:
        self.waiting = dict(tensors)  # the next stage to be entered takes them

    def release(self) -> None:
        if self.engine is not None and self.stage == 3:
            parameters = [p for p in self.whole_module.parameters() if hasattr(p, "ds_id")]
            shared = [p for p in parameters if id(p) not in self._mapped]
            with self.deepspeed.zero.GatheredParameters(shared):
                kept = {id(p): p.detach().clone() for p in shared} | self._mapped
            self._close()
            for parameter in parameters:
                parameter.data = kept[id(parameter)]
            self._mapped = {}
        else:
            self._close()
        for parameter in self.named.values():
            parameter.requires_grad_(True)
            parameter.grad = None

    def _close(self) -> None:
        if self.engine is not None:
            self.engine.destroy()
        self.engine = None

    @torch.no_grad()
    def _give(self, moments: Mapping[str, Tensor]) -> None:
        """Put moments into the flat shares; what has none begins at zero."""
        names = {id(p): name for name, p in self.named.items()}
        inner = self.engine.optimizer
        for i, master in enumerate(self.flat.masters(inner)):
            members = self.flat.members(inner, i)
            steps = [moments.get(f"step:{names[id(p)]}") for p in members]
            if not members or steps[0] is None:
                inner.optimizer.state.pop(master, None)
                continue
            state = inner.optimizer.state[master]
            for key in MAIN_KEYS:
                wholes = [moments[f"{key}:{names[id(p)]}"] for p in members]
                state[key] = self.flat.narrow(inner, i, wholes).to(master.device, master.dtype)
            state["step"] = steps[0].clone()

    @torch.no_grad()
    def _move_to(self, disk: Disk) -> None:
        """Let moments, the weights that the update is made on, and where asked for all weights, lie in files."""
        inner = self.engine.optimizer
        for i, master in enumerate(self.flat.masters(inner)):
            state = inner.optimizer.state[master]
            state.setdefault("step", torch.tensor(0.0))
            for key in MAIN_KEYS:
                state[key] = disk.copy(state[key]) if key in state else disk.zeros(master)
            master.data = disk.copy(master)
            self.flat.link(inner, i)
        if self.settings.offload == "parameters":
            for parameter in self.whole_module.parameters():
                if not parameter.requires_grad and hasattr(parameter, "ds_tensor"):
                    parameter.ds_tensor.data = disk.copy(parameter.ds_tensor)

    def _announce_outer_weights(self) -> None:
        """Weights outside of the layers are read where they are needed, not by their own module alone."""
        inside = {id(p) for layer in layers_of(self.whole_module) for p in layer.parameters()}
        for parameter in self.whole_module.parameters():
            if id(parameter) not in inside:
                self.deepspeed.zero.register_external_parameter(self.whole_module, parameter)


def _starts_the_graph(module: nn.Module, args: Any, output: Any) -> None:
    """Let gradients flow to the input of the first layer, also where nothing before it is trained.

    DeepSpeed lets go of a layer's weights when the gradient of its input is there; with no such gradient it would do so
    before those of the layer itself are made.
    """
    if torch.is_grad_enabled() and isinstance(output, Tensor) and not output.requires_grad:
        output.requires_grad_(True)


@contextmanager
def unwritten(comm: Any) -> Iterator[None]:
    """Let DeepSpeed's broadcasts leave alone what has the main process's values already.

    It sends every weight before it cuts it. Received in place, the pages of a mapped file would become memory of each
    process but the main one: the whole model.
    """
    send = comm.broadcast

    def received(tensor: Tensor, src: int, *further: Any, **named: Any) -> Any:
        values = tensor.detach().clone()
        result = send(values, src, *further, **named)
        if not torch.equal(values, tensor):
            tensor.copy_(values)
        return result

    comm.broadcast = received
    try:
        yield
    finally:
        comm.broadcast = send


def imported(group: Group) -> Any:
    """DeepSpeed, for the device of this run and without its chatter.

    Raises:
        UserError: It is not installed, or does not load.
    """
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            f"ZeRO is carried by the library deepspeed, which is not installed ({error})",
            where="distributed.engine",
            fix="pip install 'burnish[distributed]', or use `distributed.engine=fsdp2`",
        ) from error
    if not torch.cuda.is_available():
        compile_sums(deepspeed)
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend="gloo" if not torch.cuda.is_available() else "nccl", verbose=False)
    return deepspeed


def settings(zero: Zero) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    section: dict[str, Any] = {"stage": zero.stage, "contiguous_gradients": False, "overlap_comm": False}
    offload = zero.settings.offload if torch.cuda.is_available() else "none"  # beside no GPU all is there already
    if offload != "none":
        section["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    if zero.stage == 3:
        # passes differ from one another (idle ones, answers of several lengths), so nothing is fetched ahead by a trace
        section |= {"stage3_prefetch_bucket_size": 0, "stage3_max_reuse_distance": 0}
        section |= {"stage3_param_persistence_threshold": 0}
        if offload == "parameters":
            section["offload_param"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": zero.max_grad_norm or 0.0,
        "communication_data_type": zero.settings.reduce_dtype,
        "zero_optimization": section,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def grouped(
    client: torch.optim.Optimizer, chosen: Mapping[str, nn.Parameter], moments: Mapping[str, Tensor]
) -> list[dict[str, Any]]:
    """The parameter groups of a stage: those of the recipe, parted by how many updates their members have seen.

    A flat share has one counter, and AdamW's correction of its means follows it.
    """
    names = {id(p): name for name, p in chosen.items()}
    found: list[dict[str, Any]] = []
    for group in client.param_groups:
        parts: dict[float, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if id(parameter) in names:
                seen = moments.get(f"step:{names[id(parameter)]}")
                parts.setdefault(-1.0 if seen is None else float(seen), []).append(parameter)
        rest = {key: value for key, value in group.items() if key != "params"}
        found += [{**rest, "params": members} for members in parts.values()]
    return found


def layers_of(whole: Whole) -> list[nn.Module]:
    """The layers of a model: what is gathered at a time."""
    return [module for _, module in layers(whole.model)]  # type: ignore[arg-type]


def leaf_classes(whole: Whole) -> list[type]:
    """Classes of the layers, which DeepSpeed gathers with all that is in them: adapters are no modules it calls."""
    return list({type(module) for module in layers_of(whole)})
