"""A matrix as codes of 4 bits, with the codes and constants that `bitsandbytes` makes of it, bit for bit.

Its own code for processors looks every weight up among the bounds with one search each: 33 ns a weight on one core, so
that SmolLM2 took 3.5 s and a model of 8 billion would take four minutes. The compiled kernel counts the bounds that a
weight exceeds, many weights at a time (docs/performance.md).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from burnish.models.bitsandbytes_library import load_bitsandbytes
from burnish.models.config import QuantizationConfig
from burnish.ops.native import kernels

CONSTANTS_BLOCK = 256
"""Constants that share a constant of their own under double quantisation."""


def four_bits(matrix: Tensor, config: QuantizationConfig) -> Any:
    """`Params4bit` of a matrix in fp32 whose size is a whole number of blocks.

    Args:
        matrix: [D_out, D_in], contiguous.
        config: How.
    """
    bnb: Any = library()
    if matrix.device.type != "cpu" or not kernels.usable(matrix):
        made = bnb.nn.Params4bit(
            matrix, blocksize=config.block_size, compress_statistics=config.double, quant_type=config.kind
        )
        return made.to(matrix.device)
    bounds, names = _bounds(config.kind)
    codes, largest = kernels.four_bit_codes(matrix, bounds, names, config.block_size)
    return bnb.nn.Params4bit(
        codes[:, None],
        quant_state=_state(bnb, matrix, largest, config),
        blocksize=config.block_size,
        compress_statistics=config.double,
        quant_type=config.kind,
        bnb_quantized=True,
    )


def _state(bnb: Any, matrix: Tensor, largest: Tensor, config: QuantizationConfig) -> Any:
    """What undoes the codes: the constants, themselves in 8 bits if that is wanted."""
    settings = {
        "shape": matrix.shape,
        "dtype": matrix.dtype,
        "blocksize": config.block_size,
        "code": bnb.functional.get_4bit_type(config.kind, device=matrix.device),
        "quant_type": config.kind,
    }
    if not config.double:
        return bnb.functional.QuantState(absmax=largest, **settings)
    offset = largest.mean()
    constants, inner = bnb.functional.quantize_blockwise(largest - offset, blocksize=CONSTANTS_BLOCK)
    return bnb.functional.QuantState(absmax=constants, offset=offset, state2=inner, **settings)


@lru_cache(maxsize=2)
def _bounds(kind: str) -> tuple[Tensor, Tensor]:
    """[15] the middles between neighbouring values of a table, and [16] the code of each value in rising order."""
    bnb: Any = library()
    values: Tensor = bnb.functional.get_4bit_type(kind, device="cpu")
    order = torch.argsort(values)
    return ((values[order[:-1]] + values[order[1:]]) / 2).contiguous(), order.to(torch.uint8)


@lru_cache(maxsize=1)
def library() -> Any:
    """`bitsandbytes`.

    Raises:
        UserError: It is missing or does not work here.
    """
    return load_bitsandbytes(
        "weights of 4 bits need", where="model.quantization", otherwise="leave `model.quantization` out"
    )
