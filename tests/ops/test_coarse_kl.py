"""KL from the kept tokens of a distribution, against PyTorch's own on all of it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from burnish.ops.coarse_kl import coarse_kl, top_tokens


@pytest.fixture
def logits() -> tuple[torch.Tensor, torch.Tensor]:
    """Two sets of logits, [N, V]."""
    generator = torch.Generator().manual_seed(0)
    first = 3 * torch.randn(40, 100, generator=generator)
    return first, first + torch.randn(40, 100, generator=generator)


def exact(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """``KL(p || q)`` [N] of full logits in fp64."""
    p, q = (one.double().log_softmax(-1) for one in (first, second))
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


def coarse(first: torch.Tensor, second: torch.Tensor, k: int) -> torch.Tensor:
    """The same from k kept tokens."""
    ids, logs = top_tokens(first, k)
    return coarse_kl(logs, second.log_softmax(-1).gather(1, ids))


def test_all_tokens_kept_is_exact(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """With K = V nothing is joined: `torch.nn.functional.kl_div`; fp32 log-probabilities carry 1e-6."""
    assert torch.allclose(coarse(*logits, 100), exact(*logits), atol=2e-5)


def test_fewer_tokens_are_a_bound_that_rises(logits: tuple[torch.Tensor, torch.Tensor]) -> None:
    """Joining outcomes never raises a divergence, so 10 of 100 tokens give at most what 50 give, and those what all."""
    ten, fifty, whole = coarse(*logits, 10), coarse(*logits, 50), exact(*logits)
    assert bool((ten <= fifty + 1e-5).all() and (fifty <= whole + 1e-5).all())
    assert float(ten.mean()) > 0.5 * float(whole.mean())


def test_by_hand() -> None:
    """p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2), first token kept: 1/2 log 2 + 1/2 log(2/3)."""
    p, q = (torch.tensor([one]).log() for one in ([0.5, 0.25, 0.25], [0.25, 0.25, 0.5]))
    expected = 0.5 * torch.log(torch.tensor(2.0)) + 0.5 * torch.log(torch.tensor(2 / 3))
    assert coarse_kl(p[:, :1], q[:, :1])[0] == pytest.approx(float(expected), abs=1e-6)
    assert float(coarse_kl(p[:, :1], p[:, :1])[0]) == 0.0
