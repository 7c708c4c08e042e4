"""Weights of 4 bits: the linear maps of a base, quantised block by block (QLoRA; Dettmers et al., 2023).

A block of ``block_size`` weights is kept as its largest absolute value c and, for each weight, the index of the value
of a table that is nearest to ``w / c`` (equations 1 and 4). With double quantisation the constants c are themselves
kept in 8 bits, in blocks of 256 (section 3). What is not a linear map inside a layer (embeddings, norms, head, biases)
keeps the format of an unquantised run; all of it is frozen, and what adapters train is kept in fp32.

With ``kind: int8`` the maps are kept in 8 bits in their place (`quantize_8_bits`).

The codes are made of the weights as the files hold them, whatever format a run computes in, so that training, scoring
and reading back meet the same base. The kernels and `Linear4bit` are those of `bitsandbytes`, an optional extra.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from burnish.core.errors import UserError
from burnish.models.anatomy import ALL_LINEAR, Site, select
from burnish.models.config import QuantizationConfig
from burnish.models.four_bits import CONSTANTS_BLOCK, four_bits, library
from burnish.models.quantize_8_bits import EightBitLinear, unpacked
from burnish.ops.machine import trim_memory
from burnish.ops.projections import Projection, project

INT8 = "int8"
Make = Callable[[Tensor, Tensor | None], nn.Module]
_COMPUTE = {"auto": None, "bf16": torch.bfloat16, "fp32": torch.float32}


TRIMMED = 4
"""Maps of few bits behind which freed memory is handed back: temporaries leave holes between the codes, which had grown
to half the size of the weights in fp32 on SmolLM2."""


def quantize_(
    model: PreTrainedModel, config: QuantizationConfig, dtype: torch.dtype, *, shapes: bool = False
) -> dict[str, Any]:
    """Put a map of few bits in the place of every linear map and Conv1D inside the layers, one after the other.

    Args:
        model: A model with the weights of its files, in their format. It is changed in place and frozen.
        config: How.
        dtype: Format that the rest of the model is cast to.
        shapes: The model has shapes and no numbers; it gets the shapes of codes and constants.

    Returns:
        What was done, in JSON values: ``settings``, ``modules``, ``skipped`` and ``bytes`` by part.

    Raises:
        UserError: `bitsandbytes` is missing or does not work here, or `skip` names nothing.
    """
    make = _MAKERS[config.kind](config, dtype, shapes)
    chosen, skipped = _chosen(model, config)
    count = len(chosen)
    for number in range(count):
        site = chosen.pop()  # the old weight goes before the next one comes: nobody else may hold it
        parent, _, name = site.name.rpartition(".")
        setattr(model.get_submodule(parent), name, _quantised(site.host, make))
        if number % TRIMMED == 0 and not shapes:
            trim_memory()
    kept = _kept_in_fp32(model)
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not (kept & set(name.split("."))):
            parameter.data = parameter.data.to(dtype)
        parameter.requires_grad_(False)
    return {
        "settings": config.model_dump(mode="json"),
        "modules": count,
        "skipped": [site.name for site in skipped],
        "bytes": {} if shapes else bytes_by_part(model),
    }


def round_trip_(model: PreTrainedModel, config: QuantizationConfig) -> None:
    """Replace every weight that would be quantised by what few bits make of it, in its own format.

    Args:
        model: As for ``quantize_``.
        config: How.
    """
    make = _MAKERS[config.kind](config, torch.float32, False)
    for site in _chosen(model, config)[0]:
        values = matrix_of(_quantised(site.host, make))
        weight = site.host.get_parameter("weight")
        weight.data.copy_(values.t() if isinstance(site.host, Conv1D) else values)


def is_quantized(module: nn.Module) -> bool:
    """Whether a module's weight is kept in few bits."""
    return bits_of(module) is not None


def bits_of(module: nn.Module) -> int | None:
    """How many bits a module's weight is kept in; None for a plain one."""
    if isinstance(module, EightBitLinear):
        return 8
    return 4 if getattr(module._parameters.get("weight"), "quant_state", None) is not None else None


def matrix_of(host: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
    """The weight of a quantised map as a matrix [D_out, D_in]; a new tensor on every call.

    The kernel is given blocks in place of rows. Given rows, that of bitsandbytes 0.50 for processors takes the wrong
    constants wherever a row is no whole number of blocks, which doubles the error of the weights and says nothing.
    """
    if isinstance(host, EightBitLinear):
        return unpacked(host, dtype)
    weight: Any = host.weight
    state = weight.quant_state
    constants = state.absmax
    if state.nested:
        constants = library().functional.dequantize_blockwise(constants, state.state2) + state.offset
    blocks = (state.shape.numel() // state.blocksize, state.blocksize)
    unpack = torch.ops.bitsandbytes.dequantize_4bit.default
    values: Tensor = unpack(weight.data, constants, state.blocksize, state.quant_type, blocks, dtype)
    return values.view(state.shape)


def count_parameters(model: nn.Module) -> int:
    """Numbers in a model's parameters; of a quantised weight those that it stands for."""
    return sum(numbers_in(p) for p in model.parameters())


def numbers_in(parameter: Tensor) -> int:
    """Numbers that a parameter stands for."""
    state = getattr(parameter, "quant_state", None)
    return state.shape.numel() if state is not None else parameter.numel()


def bytes_by_part(model: nn.Module) -> dict[str, int]:
    """Bytes of a quantised model: ``weights`` of few bits, their ``constants`` with the tables, and the ``rest``."""
    parts: dict[str, dict[int, int]] = {"weights": {}, "constants": {}, "rest": {}}
    eights = [module for module in model.modules() if isinstance(module, EightBitLinear)]
    codes = {id(module.weight) for module in eights}
    parts["constants"] = {module.constants.data_ptr(): module.constants.nbytes for module in eights}
    for parameter in model.parameters():
        state = getattr(parameter, "quant_state", None)
        coded = state is not None or id(parameter) in codes
        parts["weights" if coded else "rest"][parameter.data_ptr()] = parameter.nbytes
        for tensor in _constants(state):
            parts["constants"][tensor.data_ptr()] = tensor.nbytes  # tables are shared between layers
    sums = {name: sum(found.values()) for name, found in parts.items()}
    return {**sums, "total": sum(sums.values())}


def _constants(state: Any) -> list[Tensor]:
    if state is None:
        return []
    inner = state.state2
    return [state.absmax, state.code] + ([state.offset, inner.absmax, inner.code] if inner is not None else [])


def _chosen(model: PreTrainedModel, config: QuantizationConfig) -> tuple[list[Site], list[Site]]:
    """The sites that are quantised, and those inside the layers that are not."""
    try:
        left_out = {s.name for s in select(model, config.skip)} if config.skip else set()
    except UserError as error:
        raise UserError(error.what.replace("targets", "skip"), where="model.quantization.skip", fix=error.fix) from None
    kept, owners = _kept_in_fp32(model), owners_of_parameters(model)
    chosen: list[Site] = []
    skipped: list[Site] = []
    for site in select(model, ALL_LINEAR):
        # a weight that another module shares would come apart, and code that reads the format of a weight (T5's `wo`)
        # would take that of the codes for it
        shared = len(owners[id(site.host.weight)]) > 1
        # the last block would be a shorter one
        broken = config.kind != INT8 and site.host.weight.numel() % config.block_size
        stays = site.name in left_out or shared or broken or kept & set(site.name.split("."))
        (skipped if stays else chosen).append(site)
    return chosen, skipped


def owners_of_parameters(model: nn.Module) -> dict[int, list[str]]:
    """Names of the modules that hold each parameter, by the parameter's id: several where a weight is shared."""
    found: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                found.setdefault(id(parameter), []).append(name)
    return found


def _kept_in_fp32(model: PreTrainedModel) -> set[str]:
    """Names of modules that `transformers` keeps in fp32 whatever the format of the model."""
    names = (getattr(model, key, None) or () for key in ("_keep_in_fp32_modules", "_keep_in_fp32_modules_strict"))
    return {name for group in names for name in group}


def _quantised(host: nn.Module, make: Make) -> nn.Module:
    weight, bias = host.get_parameter("weight").detach(), host._parameters.get("bias")
    matrix = (weight.t() if isinstance(host, Conv1D) else weight).float().contiguous()
    return make(matrix, bias).train(host.training)


def _four_bits(config: QuantizationConfig, dtype: torch.dtype, shapes: bool) -> Make:
    cls = _shape_class() if shapes else _layer_class()

    def make(matrix: Tensor, bias: Tensor | None) -> nn.Module:
        layer: nn.Module = cls(matrix, bias, config)
        state: Any = layer.weight.quant_state  # type: ignore[union-attr]
        state.dtype = _COMPUTE[config.compute] or dtype  # what the backward pass unpacks to
        return layer

    return make


def _eight_bits(config: QuantizationConfig, dtype: torch.dtype, shapes: bool) -> Make:
    return lambda matrix, bias: EightBitLinear(matrix, bias, _COMPUTE[config.compute])


_MAKERS: Mapping[str, Callable[[QuantizationConfig, torch.dtype, bool], Make]] = {
    "nf4": _four_bits,
    "fp4": _four_bits,
    INT8: _eight_bits,
}
"""What makes a map of few bits of a matrix and a bias, by the kind of codes."""


@lru_cache(maxsize=1)
def _layer_class() -> Any:
    """A `Linear4bit` whose forward changes nothing: no layout, no format of its bias, in training or evaluation.

    The library's own packs its weights anew in an evaluation on processors with bf16 products, rounds their constants
    to bf16 with that, and takes the packed form, which has no gradient, in the training that follows. On a processor
    the product is our own, because of what ``matrix_of`` tells of its kernel.
    """
    bnb = library()

    class QuantizedLinear(bnb.nn.Linear4bit):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self, matrix: Tensor, bias: Tensor | None, config: QuantizationConfig) -> None:
            super().__init__(matrix.shape[1], matrix.shape[0], bias is not None, device="meta")
            self.compute_dtype = _COMPUTE[config.compute]
            self.weight = four_bits(matrix, config)
            if bias is not None:
                self.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            compute = self.compute_dtype or x.dtype
            bias = self.bias.to(compute) if self.bias is not None else None
            if x.device.type == "cpu":
                (output,) = project(x.to(compute), [Projection(self.weight, bias, decode=partial(matrix_of, self))])
            else:  # kernels for one token at a time, which need no matrix
                output = bnb.matmul_4bit(x.to(compute), self.weight, quant_state=self.weight.quant_state, bias=bias)
            return output.to(x.dtype)

    return QuantizedLinear


@lru_cache(maxsize=1)
def _shape_class() -> Any:
    """What ``_layer_class`` makes, on the meta device: nothing is computed and nothing allocated."""
    bnb = library()

    class QuantizedShape(nn.Linear):
        def __init__(self, matrix: Tensor, bias: Tensor | None, config: QuantizationConfig) -> None:
            super().__init__(matrix.shape[1], matrix.shape[0], bias is not None, device="meta")
            self.compute_dtype = _COMPUTE[config.compute]
            codes = torch.empty((matrix.numel() + 1) // 2, 1, dtype=torch.uint8, device="meta")
            self.weight = nn.Parameter(codes, requires_grad=False)
            self.weight.quant_state = _state_shapes(bnb, matrix.shape, config)  # type: ignore[attr-defined]

        def forward(self, x: Tensor) -> Tensor:
            compute = self.compute_dtype or x.dtype
            bias = self.bias.to(compute) if self.bias is not None else None
            (output,) = project(x.to(compute), [Projection(self.weight, bias, decode=partial(matrix_of, self))])
            return output.to(x.dtype)

    return QuantizedShape


def _state_shapes(bnb: Any, shape: torch.Size, config: QuantizationConfig) -> Any:
    """Constants of a quantised matrix as shapes (`bitsandbytes.functional.quantize_4bit` and `quantize_blockwise`)."""

    def empty(count: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(count, dtype=dtype, device="meta")

    blocks = shape.numel() // config.block_size
    settings = {"blocksize": config.block_size, "quant_type": config.kind, "code": empty(16), "shape": shape}
    if not config.double:
        return bnb.functional.QuantState(absmax=empty(blocks), **settings)
    inner = bnb.functional.QuantState(
        absmax=empty(-(-blocks // CONSTANTS_BLOCK)), blocksize=CONSTANTS_BLOCK, code=empty(256), dtype=torch.float32
    )
    offset = torch.empty((), device="meta")
    return bnb.functional.QuantState(absmax=empty(blocks, torch.uint8), offset=offset, state2=inner, **settings)
