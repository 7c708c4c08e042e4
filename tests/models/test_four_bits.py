"""Codes of 4 bits from the compiled kernel against those of `bitsandbytes` itself."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from burnish.models.config import QuantizationConfig
from burnish.models.four_bits import four_bits
from burnish.ops.native import kernels, library

bnb = pytest.importorskip("bitsandbytes")
needs_kernels = pytest.mark.skipif(library.library() is None, reason=library.why_not() or "there are kernels")


def weights(seed: int = 0) -> Tensor:
    """96 by 64 numbers with a block of zeros, one of tiny numbers, and one that holds every value of the NF4 table."""
    matrix = torch.randn(96, 64, generator=torch.Generator().manual_seed(seed)) * 0.05
    matrix[3] = 0.0
    matrix[4] = 1e-40
    values = bnb.functional.get_4bit_type("nf4", device="cpu")
    matrix[5, :16], matrix[5, 16:31] = values, (values[:-1] + values[1:]) / 2  # and numbers that lie on its bounds
    return matrix


def theirs(matrix: Tensor, config: QuantizationConfig) -> Any:
    settings = {"blocksize": config.block_size, "compress_statistics": config.double, "quant_type": config.kind}
    return bnb.nn.Params4bit(matrix, **settings).to("cpu")


@needs_kernels
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("block", [32, 64, 128])
def test_the_codes_are_those_of_the_library(kind: Literal["nf4", "fp4"], double: bool, block: int) -> None:
    """Codes, constants, tables and what is unpacked, in every bit."""
    config = QuantizationConfig(kind=kind, double=double, block_size=block)
    ours, known = four_bits(weights(), config), theirs(weights(), config)
    assert ours.shape == known.shape and torch.equal(ours.data, known.data)
    mine, its = (dict(one.quant_state.as_dict(packed=True)) for one in (ours, known))
    assert mine.keys() == its.keys() and all(torch.equal(mine[name], its[name]) for name in mine)
    unpack = bnb.functional.dequantize_4bit
    assert torch.equal(unpack(ours.data, ours.quant_state), unpack(known.data, known.quant_state))
    assert not ours.requires_grad and type(ours) is type(known) and ours.bnb_quantized


@needs_kernels
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad: float) -> None:
    """A block with such a weight has no constant, so that what is computed with it is no number either."""
    matrix = weights()
    matrix[7, 9] = bad
    found = four_bits(matrix, QuantizationConfig(kind="nf4", double=False))
    values = bnb.functional.dequantize_4bit(found.data, found.quant_state)
    assert not torch.isfinite(values[7]).any() and torch.isfinite(values[[6, 8]]).all()


def test_without_kernels_the_library_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    config = QuantizationConfig(kind="nf4")
    monkeypatch.setattr(kernels, "usable", lambda *tensors: False)
    assert torch.equal(four_bits(weights(), config).data, theirs(weights(), config).data)
