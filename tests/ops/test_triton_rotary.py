"""The rotary kernel against float64 and against `transformers`. Shapes: B batch, T tokens, H heads, E width."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb
from transformers.models.phi3.modeling_phi3 import apply_rotary_pos_emb as partial_rotary

from tests.ops.triton_interpreter import PROMISED, assert_near, draw, exact, interpreted


def angles(batch: int, length: int, width: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Cosines and sines as `transformers` makes them: both halves equal."""
    position = torch.arange(length, dtype=torch.float64) + 3 * torch.arange(batch)[:, None]
    rates = 100.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    turned = position[..., None] * rates
    both = torch.cat([turned, turned], -1)
    return both.cos().to(dtype), both.sin().to(dtype)


def queries_and_keys(batch: int, length: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Six and two heads, in the layout of a model: [B, T, H, E] in memory."""
    query = draw(batch, length, 6, width, dtype=dtype).transpose(1, 2)
    return query, draw(batch, length, 2, width, dtype=dtype, seed=1).transpose(1, 2)


@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("rotated", [8, 4])
@pytest.mark.parametrize("shared", [True, False])
def test_values_and_gradients(dtype: torch.dtype, rotated: int, shared: bool) -> None:
    """Llama's convention in float64, rotated whole and in part (Phi-3), angles of one row or of every row."""
    rotary = interpreted("rotary").rotary
    query, key = queries_and_keys(2, 5, 8, dtype)
    cos, sin = angles(1 if shared else 2, 5, rotated)
    query64, key64 = exact(query, key)
    expected = partial_rotary(query64, key64, cos.double(), sin.double())
    found = rotary(query, key, cos, sin)
    upstream = [draw(*t.shape, dtype=dtype, seed=2 + i).detach() for i, t in enumerate((query, key))]
    ours = torch.autograd.grad(found, (query, key), upstream)
    theirs = torch.autograd.grad(expected, (query64, key64), [u.double() for u in upstream])
    for one, other in zip((*found, *ours), (*expected, *theirs), strict=True):
        assert_near(one, other, PROMISED[dtype])
        assert one.dtype == dtype
    assert found[0].stride() == query.stride()


def test_it_is_the_function_of_the_library() -> None:
    """fp32, a batch of 1, and heads whose number is no power of two."""
    rotary = interpreted("rotary").rotary
    query, key = queries_and_keys(1, 9, 16, torch.float32)
    cos, sin = angles(1, 9, 16)
    for one, other in zip(rotary(query, key, cos, sin), apply_rotary_pos_emb(query, key, cos, sin), strict=True):
        assert_near(one, other, 1e-6)


def test_rotating_by_the_negative_angle_undoes_it_and_is_the_gradient() -> None:
    """R(-a) R(a) = 1, and R(a)^T = R(-a)."""
    rotary = interpreted("rotary").rotary
    query, key = queries_and_keys(1, 4, 8, torch.float32)
    cos, sin = angles(1, 4, 8)
    turned = rotary(query, key, cos, sin)
    back = rotary(*(t.detach() for t in turned), cos, -sin)
    assert_near(back[0], query, 1e-6)
    upstream = draw(*query.shape, seed=5).detach()
    gradient = torch.autograd.grad(turned[0], query, upstream)[0]
    assert_near(gradient, rotary(upstream, key.detach(), cos, -sin)[0], 1e-6)


def test_halves_with_angles_of_their_own_have_the_transposed_gradient() -> None:
    """Not Llama's case; the formula holds for it nevertheless."""
    rotary = interpreted("rotary").rotary
    query, key = queries_and_keys(1, 3, 4, torch.float32)
    cos, sin = draw(1, 3, 4, seed=6).detach(), draw(1, 3, 4, seed=7).detach()
    found, expected = rotary(query, key, cos, sin), apply_rotary_pos_emb(query, key, cos, sin)
    upstream = [draw(*t.shape, seed=8).detach() for t in found]
    for one, other in zip(
        torch.autograd.grad(found, (query, key), upstream),
        torch.autograd.grad(expected, (query, key), upstream),
        strict=True,
    ):
        assert_near(one, other, 1e-6)


def test_what_does_not_fit_is_refused() -> None:
    rotary = interpreted("rotary").rotary
    query, key = queries_and_keys(2, 5, 8, torch.float32)
    for cos, sin in (angles(3, 5, 8), angles(1, 4, 8), angles(1, 5, 10)):
        with pytest.raises(ValueError, match="do not fit"):
            rotary(query, key, cos, sin)
