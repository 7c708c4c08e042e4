"""The loss kernel against float64, and as part of the chunked loss against its plain path."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops import cross_entropy
from burnish.ops.cross_entropy import chunked_token_losses
from tests.ops.triton_interpreter import PROMISED, assert_near, draw, exact, interpreted


@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("softcap", [None, 3.0])
@pytest.mark.parametrize("block", [8, 64])
def test_losses_and_gradients(
    dtype: torch.dtype, softcap: float | None, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row's own loss and its gradient by autograd in float64: in one block, and in six with the last in part.

    A vocabulary of 43 is no power of two; the third row is ignored; row four peaks early, row five late, so that the
    running maximum both stays and rises.
    """
    room = interpreted("cross_entropy")
    monkeypatch.setattr(room, "MOST", block)
    logits = draw(6, 43, dtype=dtype, scale=4.0).detach()
    logits[3, 1], logits[4, 42] = 30.0, 30.0
    labels = torch.tensor([0, 42, -100, 1, 7, 20])
    (exact_logits,) = exact(logits.requires_grad_())
    capped = softcap * torch.tanh(exact_logits / softcap) if softcap else exact_logits
    expected = F.cross_entropy(capped, labels, reduction="none", ignore_index=-100)
    expected.sum().backward()
    gradient = logits.detach().clone()
    losses = room.softmax_gradient_(gradient, labels, softcap)
    assert losses.dtype == torch.float32 and float(losses[2]) == 0 and not gradient[2].any()
    assert_near(losses, expected, 1e-5)
    assert_near(gradient, exact_logits.grad, PROMISED[dtype])


def test_extreme_logits_stay_finite() -> None:
    """exp(1e4) is no fp32 number: the maximum is subtracted first. Losses by hand: 0, and a difference of 2e4."""
    room = interpreted("cross_entropy")
    logits = torch.tensor([[1e4, -1e4, 0.0], [1e4, -1e4, 0.0]])
    losses = room.softmax_gradient_(logits, torch.tensor([0, 1]))
    assert losses.tolist() == [0.0, 2e4]
    assert logits.tolist() == [[0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]


def test_what_does_not_fit_is_refused() -> None:
    room = interpreted("cross_entropy")
    with pytest.raises(ValueError, match="contiguous"):
        room.softmax_gradient_(draw(4, 3).detach().t(), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"logit_softcap": 2.0}, {"hidden_scale": 0.5}])
def test_the_chunked_loss_through_it_is_the_plain_one(
    dtype: torch.dtype, options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen head, chunks of 3 of 8 positions, a bias: losses and the gradient of the hidden states."""
    room = interpreted("cross_entropy")
    calls: list[int] = []

    def counted(logits: Tensor, labels: Tensor, softcap: float | None) -> Tensor:
        calls.append(len(logits))
        return room.softmax_gradient_(logits, labels, softcap)

    hidden, weight, bias = draw(8, 6, dtype=dtype), draw(21, 6, dtype=dtype, seed=1), draw(21, dtype=dtype, seed=2)
    labels, upstream = torch.tensor([0, 20, -100, 3, 3, 9, -100, 1]), draw(8, seed=3).detach()
    results = []
    for table in ({}, {"cpu": lambda hidden, softcap: lambda logits, labels: counted(logits, labels, softcap)}):
        monkeypatch.setattr(cross_entropy, "_IN_PLACE", table)
        losses = chunked_token_losses(hidden, weight.detach(), labels, bias.detach(), chunk=3, **options)
        results.append((losses, torch.autograd.grad(losses, hidden, upstream)[0]))
    assert calls == [3, 3, 2]
    for one, other in zip(*results, strict=True):
        assert_near(one, other, PROMISED[dtype])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_formats_that_the_kernel_is_not_for_take_the_plain_path(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float64 would lose its digits; fp16 waits for the scaled upstream gradient and recomputes."""
    monkeypatch.setattr(cross_entropy, "_IN_PLACE", {"cpu": lambda *_: pytest.fail("the kernel was asked for")})
    hidden = draw(4, 6, dtype=dtype)
    losses = chunked_token_losses(hidden, draw(9, 6, dtype=dtype).detach(), torch.tensor([0, 1, 2, 3]))
    assert torch.isfinite(torch.autograd.grad(losses.sum(), hidden)[0]).all()
