"""Attention by blocks of queries equals the library's attention on each row alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from burnish.ops import blocked_attention as room
from burnish.ops.attention import packed_attention
from burnish.ops.blocked_attention import blocked_attention, blocks

PACKS = [(1,), (5, 1, 9), (130,), (3,) * 50, (200, 7, 129, 1)]


def inputs(lengths: tuple[int, ...], dtype: torch.dtype, heads: int = 6, keys: int = 2) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((heads, sum(lengths), 8), (keys, sum(lengths), 8), (keys, sum(lengths), 5))
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes)


def both(lengths: tuple[int, ...], dtype: torch.dtype, **options: object) -> list[tuple[Tensor, ...]]:
    """Output and gradients, by blocks and by the library row by row."""
    results = []
    for ours in (True, False):
        query, key, value = inputs(lengths, dtype)
        if ours:
            output = blocked_attention(query, key, value, lengths, **options)  # type: ignore[arg-type]
        else:
            packed = [t[None].double() for t in (query, key, value)]
            output = packed_attention(*packed, lengths, **options)[0]  # type: ignore[arg-type]
        upstream = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients = torch.autograd.grad(output, (query, key, value), upstream.to(output.dtype))
        results.append((output, *gradients))
    return results


@pytest.mark.parametrize("lengths", PACKS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 4, 150])
def test_it_is_the_attention_of_each_row(lengths: tuple[int, ...], causal: bool, window: int | None) -> None:
    """Output and all gradients in float64, to 1e-12: grouped heads, values of another width, a scale of its own."""
    ours, theirs = both(lengths, torch.float64, causal=causal, sliding_window=window, scaling=0.3)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", PACKS)
def test_bf16_stays_within_its_resolution(lengths: tuple[int, ...]) -> None:
    """Scores, weights and results are each rounded to 8 bits: within 2^-5 of the largest number of the exact result."""
    ours, theirs = both(lengths, torch.bfloat16, causal=True)
    for one, other in zip(ours, theirs, strict=True):
        assert float((one.detach().double() - other.detach().double()).abs().max()) <= 2**-5 * max(
            1.0, float(other.detach().abs().max())
        )


def test_blocks_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 5, 1 and 9 in blocks of 4: tokens 0 to 3 see row one; 4 to 7 begin in it; 8 to 14 see the third only."""
    monkeypatch.setattr(room, "BLOCK", 4)
    blocks.cache_clear()
    made = blocks((5, 1, 9), True, None, torch.float32)
    assert [part[:4] for part in made] == [(0, 4, 0, 4), (4, 8, 0, 8), (8, 12, 6, 12), (12, 15, 6, 15)]
    assert (made[1].mask == 0).sum(1).tolist() == [5, 1, 1, 2]
    whole = blocks((5, 1, 9), False, 2, torch.float32)
    assert [part[:4] for part in whole] == [(0, 4, 0, 5), (4, 8, 3, 9), (8, 12, 7, 13), (12, 15, 11, 15)]
    blocks.cache_clear()
