"""Packed attention against every row by itself, in float64. Shapes: H and K heads, T tokens, E width."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.attention import capped_attention, packed_attention

LENGTHS = (5, 1, 9, 3)


def tensors(heads: int, groups: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def make(count: int) -> Tensor:
        values = torch.randn(1, count, sum(LENGTHS), 8, generator=generator, dtype=torch.float64)
        return values.requires_grad_()

    return make(heads), make(groups), make(groups)


def by_hand(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, scaling: float, window: int | None, cap: float | None
) -> Tensor:
    """One row, score by score: [1, H, n, E]."""
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, 1), value.repeat_interleave(repeats, 1)
    scores = scaling * query @ key.transpose(-1, -2)
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    row, column = torch.meshgrid(torch.arange(query.shape[2]), torch.arange(query.shape[2]), indexing="ij")
    visible = torch.ones_like(row, dtype=torch.bool)
    if causal:
        visible &= column <= row
    if window is not None:
        visible &= (row - column).abs() < window
    return torch.softmax(scores.masked_fill(~visible, -math.inf), -1) @ value


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("cap", [None, 1.5])
def test_a_packed_row_is_the_row_alone(
    causal: bool, heads: tuple[int, int], window: int | None, cap: float | None
) -> None:
    """Values and gradients of softmax(s Q K^T + M) V for each row, to 1e-10."""
    packed, alone = tensors(*heads), tensors(*heads)
    found = packed_attention(*packed, LENGTHS, causal=causal, scaling=0.3, sliding_window=window, softcap=cap)
    parts = zip(*(tensor.split(list(LENGTHS), 2) for tensor in alone), strict=True)
    expected = torch.cat(
        [by_hand(q, k, v, causal=causal, scaling=0.3, window=window, cap=cap).transpose(1, 2) for q, k, v in parts], 1
    )
    assert found.shape == (1, sum(LENGTHS), heads[0], 8)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    upstream = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    (found * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for one, other in zip(packed, alone, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=1e-10)


def test_the_default_scaling_is_the_root_of_the_width() -> None:
    query, key, value = tensors(4, 2)
    left = packed_attention(query, key, value, LENGTHS, causal=True)
    right = packed_attention(query, key, value, LENGTHS, causal=True, scaling=8**-0.5)
    torch.testing.assert_close(left, right, rtol=0, atol=1e-12)
    capped = packed_attention(query, key, value, LENGTHS, causal=True, softcap=2.0)
    scaled = packed_attention(query, key, value, LENGTHS, causal=True, softcap=2.0, scaling=8**-0.5)
    torch.testing.assert_close(capped, scaled, rtol=0, atol=1e-12)


def test_a_huge_cap_is_no_cap() -> None:
    """c tanh(x / c) -> x as c grows: x^3 / (3 c^2) is below 1e-10 for scores of a few units and c = 1e6."""
    query, key, value = tensors(4, 2)
    plain = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(capped_attention(query, key, value, None, softcap=1e6), plain, rtol=0, atol=1e-10)


def test_float_and_boolean_masks_say_the_same() -> None:
    query, key, value = tensors(4, 2)
    visible = torch.ones(18, 18, dtype=torch.bool).tril()
    added = torch.zeros(18, 18, dtype=torch.float64).masked_fill(~visible, -1e9)
    left = capped_attention(query, key, value, visible, softcap=2.0)
    torch.testing.assert_close(left, capped_attention(query, key, value, added, softcap=2.0), rtol=0, atol=1e-10)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_dropout_drops_with_its_probability_and_keeps_the_mean(cap: float | None) -> None:
    """With equal values the output is kept / (1 - p) summed over n weights of 1 / n: its mean stays 1."""
    shape = (1, 8, 64, 8)
    ones = torch.ones(shape, dtype=torch.float64)
    torch.manual_seed(0)
    found = packed_attention(ones, ones, ones, (64,), causal=False, dropout=0.25, softcap=cap)
    assert float(found.mean()) == pytest.approx(1.0, abs=0.03)
    assert float(found.std()) > 0.01


@pytest.mark.parametrize("lengths", [(5, 5), (20,), ()])
def test_lengths_must_add_up(lengths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="pack of lengths"):
        packed_attention(*tensors(4, 2), lengths, causal=True)
