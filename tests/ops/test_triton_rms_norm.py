"""The norm's kernel against float64 and against the modules of `transformers`. Shapes: D width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.ops.triton_interpreter import PROMISED, assert_near, draw, exact, interpreted


def by_hand(x: Tensor, weight: Tensor, eps: float, offset: float) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * (offset + weight)


@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("shape", [(3, 5, 16), (1, 7), (2, 300), (0, 8)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_values_and_gradients(
    shape: tuple[int, ...], dtype: torch.dtype, offset: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the formula in float64; widths that are no power of two, more rows than programs, no rows."""
    room = interpreted("rms_norm")
    monkeypatch.setattr(room, "PROGRAMS", 4)  # 15 rows: four programs of four rows, the last with three
    norm = room.rms_norm
    x, weight = draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype, seed=1)
    x64, weight64 = exact(x, weight)
    found, expected = norm(x, weight, 1e-5, offset), by_hand(x64, weight64, 1e-5, offset)
    assert found.dtype == dtype and found.shape == x.shape
    upstream = draw(*shape, dtype=dtype, seed=2).detach()
    found.backward(upstream)
    expected.backward(upstream.double())
    for one, other in ((found, expected), (x.grad, x64.grad), (weight.grad, weight64.grad)):
        assert_near(one, other, PROMISED[dtype])


@pytest.mark.parametrize(("module", "offset"), [(LlamaRMSNorm, 0.0), (GemmaRMSNorm, 1.0)])
@pytest.mark.parametrize("dtype", PROMISED)
def test_it_is_the_module_of_the_library(module: type, offset: float, dtype: torch.dtype) -> None:
    """Same rounding, so half precision agrees to one unit in the last place: 2^-7 of a number in bf16."""
    norm = interpreted("rms_norm").rms_norm
    theirs = module(48, eps=1e-6).to(dtype)
    with torch.no_grad():
        theirs.weight.copy_(draw(48, seed=3))
    x = draw(6, 48, dtype=dtype)
    found, expected = norm(x, theirs.weight, 1e-6, offset), theirs(x)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-6)
    upstream = draw(6, 48, dtype=dtype, seed=4).detach()
    ours = torch.autograd.grad(found, (x, theirs.weight), upstream)
    for one, other in zip(ours, torch.autograd.grad(expected, (x, theirs.weight), upstream), strict=True):
        assert_near(one, other, PROMISED[dtype])


def test_a_trained_weight_in_fp32_over_half_precision_promotes_as_the_library_does() -> None:
    norm = interpreted("rms_norm").rms_norm
    theirs, x = LlamaRMSNorm(16), draw(4, 16, dtype=torch.bfloat16)
    found = norm(x, theirs.weight, theirs.variance_epsilon)
    assert found.dtype == theirs(x).dtype == torch.float32
    torch.testing.assert_close(found, theirs(x), rtol=1e-2, atol=0)
    found.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert theirs.weight.grad is not None and theirs.weight.grad.dtype == torch.float32


def test_a_frozen_weight_gets_no_gradient_and_any_layout_is_taken() -> None:
    norm = interpreted("rms_norm").rms_norm
    x, weight = draw(8, 5, 4), draw(8, seed=1).detach()
    turned = x.transpose(0, 2)  # [4, 5, 8], not contiguous
    found, expected = norm(turned, weight, 1e-5), by_hand(turned, weight, 1e-5, 0.0)
    assert_near(found, expected, 1e-6)
    upstream = draw(8, 5, 4, seed=2).detach().transpose(0, 2)
    assert_near(*(torch.autograd.grad(y, x, upstream)[0] for y in (found, expected)), 1e-6)  # type: ignore[arg-type]


def test_a_weight_of_another_width_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a weight"):
        interpreted("rms_norm").rms_norm(draw(2, 8), draw(4), 1e-5)


@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("needs_weight", [True, False])
def test_a_delta_is_added_first_and_another_gradient_last(
    dtype: torch.dtype, needs_weight: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``s = x + delta`` as PyTorch rounds it; with L = <u, norm(s)> + <t, s>, dL/ds in float64."""
    room = interpreted("rms_norm")
    monkeypatch.setattr(room, "PROGRAMS", 2)
    x, delta, weight = (draw(*shape, dtype=dtype, seed=i).detach() for i, shape in enumerate(((5, 12), (5, 12), (12,))))
    upstream, through = draw(5, 12, dtype=dtype, seed=4).detach(), draw(5, 12, dtype=dtype, seed=5).detach()
    total, found, root = room.forward(x, delta, weight, 1e-5)
    unit = torch.finfo(dtype).eps if dtype == torch.bfloat16 else 0.0  # the interpreter cuts bf16 off, a card rounds it
    torch.testing.assert_close(total, x + delta, rtol=unit, atol=0)
    assert torch.equal(room.forward(total, None, weight, 1e-5)[1], found)  # made again, to the bit
    total64, weight64 = exact(total.requires_grad_(), weight.requires_grad_())
    expected = by_hand(total64, weight64, 1e-5, 0.0)
    torch.autograd.backward((expected, total64), (upstream.double(), through.double()))
    grad, grad_weight = room.gradient(upstream, total, weight, root, through, 0.0, needs_weight)
    assert_near(found, expected, PROMISED[dtype])
    assert_near(grad, total64.grad, PROMISED[dtype])
    assert (grad_weight is not None) == needs_weight
    if needs_weight:
        assert_near(grad_weight, weight64.grad, PROMISED[dtype])
