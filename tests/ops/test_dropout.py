"""Dropout that keeps no mask: share and size of what is kept, gradients, seeds."""

from __future__ import annotations

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from burnish.ops.dropout import dropout
from burnish.ops.native import kernels


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_a_share_is_dropped_and_the_rest_grows(dtype: torch.dtype) -> None:
    """Of 3 x 70 x 41 = 8,610 ones a quarter is dropped, within five standard deviations: 5 sqrt(0.1875 / 8610) = 0.024.
    The others are 1 / 0.75, and so is the gradient where they are; rows and columns have masks of their own."""
    x = torch.ones(3, 70, 41, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.25)
    kept = y.detach() > 0
    assert abs(float(kept.double().mean()) - 0.75) < 0.024
    torch.testing.assert_close(y.detach()[kept], torch.full_like(y.detach()[kept], 1 / 0.75))
    (grad,) = torch.autograd.grad(y.sum(), [x])
    assert torch.equal(grad > 0, kept)
    flat = kept.view(-1, 41).double()
    assert float(flat.mean(1).std()) < 0.1 and float(flat.mean(0).std()) < 0.06
    assert not any(torch.equal(flat[0], row) for row in flat[1:])


def test_a_seed_gives_a_mask() -> None:
    """One seed, one mask, under activation checkpointing too; the next call has another. A rate of 0 is x itself."""
    x = torch.ones(40, 30, requires_grad=True)
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append((dropout(x, 0.5), dropout(x, 0.5)))
    assert torch.equal(found[0][0], found[1][0]) and not torch.equal(*found[0])
    assert dropout(x, 0.0) is x
    y = checkpoint(lambda t: dropout(t, 0.5) * 2, x, use_reentrant=False)
    assert isinstance(y, torch.Tensor)
    (grad,) = torch.autograd.grad(y.sum(), [x])
    assert torch.equal(grad, y.detach())


@pytest.mark.skipif(kernels.library() is None, reason="no compiled kernels")
def test_nothing_is_kept_for_the_backward_pass() -> None:
    sizes: list[int] = []
    x = torch.ones(40, 30, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (sizes.append(t.numel()), t)[1], lambda t: t):
        dropout(x, 0.5).sum()
    assert sizes == []


def test_an_empty_tensor_and_a_single_number() -> None:
    assert dropout(torch.ones(0, 5), 0.5).shape == (0, 5)
    assert float(dropout(torch.ones(()), 0.5)) in (0.0, 2.0)
