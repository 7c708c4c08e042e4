"""The chunked loss against PyTorch's plain one. Shapes: N positions, D width, V vocabulary."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from burnish.ops.cross_entropy import chunk_rows, chunked_log_probs, chunked_token_losses

N, D, V = 11, 6, 13


def example(seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, D, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(V, D, generator=generator, dtype=dtype, requires_grad=True)
    bias = torch.randn(V, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, V, (N,), generator=generator)
    upstream = torch.rand(N, generator=generator, dtype=dtype)
    return hidden, weight, bias, labels, upstream


def plain(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, scale: float, cap: float | None
) -> Tensor:
    logits = F.linear(hidden * scale, weight, bias)
    if cap is not None:
        logits = cap * torch.tanh(logits / cap)
    return F.cross_entropy(logits, labels, reduction="none")


def test_a_value_by_hand() -> None:
    """h = (1), W = (0, ln 2, ln 5): softmax is (1, 2, 5) / 8, so the losses are ln 8, ln 4 and ln 1.6."""
    hidden = torch.ones(3, 1, dtype=torch.float64)
    weight = torch.tensor([[0.0], [math.log(2)], [math.log(5)]], dtype=torch.float64)
    losses = chunked_token_losses(hidden, weight, torch.tensor([0, 1, 2]))
    assert losses.tolist() == pytest.approx([math.log(8), math.log(4), math.log(1.6)], abs=1e-12)


@pytest.mark.parametrize("chunk", [1, 4, 11, 100])
@pytest.mark.parametrize("cap", [None, 2.5])
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("head_trains", [True, False])
def test_values_and_gradients_are_the_plain_ones(
    chunk: int, cap: float | None, with_bias: bool, head_trains: bool
) -> None:
    """Both compute the same function in float64, for any chunk and any upstream gradient: 1e-10."""
    grads = []
    for chunked in (False, True):
        hidden, weight, bias, labels, upstream = example()
        weight.requires_grad_(head_trains)
        bias.requires_grad_(head_trains)
        used = bias if with_bias else None
        if chunked:
            losses = chunked_token_losses(
                hidden, weight, labels, used, chunk=chunk, hidden_scale=0.7, logit_softcap=cap
            )
        else:
            losses = plain(hidden, weight, labels, used, 0.7, cap)
        (losses * upstream).sum().backward()
        grads.append((losses.detach(), hidden.grad, weight.grad, bias.grad))
    for expected, found in zip(*grads, strict=True):
        if expected is None:
            assert found is None
        else:
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert (grads[1][2] is None) == (not head_trains)


@pytest.mark.parametrize(
    "trained", [(True, False, False), (True, True, True), (False, True, False), (False, False, True)]
)
def test_gradcheck(trained: tuple[bool, bool, bool]) -> None:
    """Finite differences agree with the written backward pass, whichever inputs are trained."""
    hidden, weight, bias, labels, _ = example(1)
    for tensor, wanted in zip((hidden, weight, bias), trained, strict=True):
        tensor.requires_grad_(wanted)
    labels[2] = -100

    def losses(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return chunked_token_losses(h, w, labels, b, chunk=4, hidden_scale=1.3, logit_softcap=3.0)

    assert torch.autograd.gradcheck(losses, (hidden, weight, bias))


def test_ignored_labels_lose_nothing_and_get_no_gradient() -> None:
    for head_trains in (True, False):
        hidden, weight, bias, labels, _ = example()
        weight.requires_grad_(head_trains)
        bias.requires_grad_(head_trains)
        labels[::2] = -100
        losses = chunked_token_losses(hidden, weight, labels, bias, chunk=3)
        losses.sum().backward()
        assert losses[::2].abs().max() == 0
        assert hidden.grad is not None
        assert hidden.grad[::2].abs().max() == 0
        expected = F.cross_entropy(F.linear(hidden, weight, bias), labels, reduction="sum")
        torch.testing.assert_close(losses.sum(), expected, rtol=0, atol=1e-10)


@given(seed=st.integers(0, 10_000), chunk=st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_log_probs_are_at_most_zero_and_add_up_to_one(seed: int, chunk: int) -> None:
    """exp of the log-probabilities of all V labels of one state sums to 1."""
    hidden, weight, bias, _, _ = example(seed)
    state = hidden[:1].detach().expand(V, D)
    log_probs = chunked_log_probs(state, weight.detach(), torch.arange(V), bias_V=bias.detach(), chunk=chunk)
    assert log_probs.max() <= 0
    assert float(log_probs.exp().sum()) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_matches_the_plain_way_of_the_same_dtype(dtype: torch.dtype) -> None:
    """Products in half, softmax in fp32: what `cross_entropy(linear(h, W).float())` does; gradients to 1 %.

    The upstream gradient is that of a loss scaled by 1024, as fp16 training has it.
    """
    results = []
    for chunked in (False, True):
        for head_trains in (False, True):
            hidden, weight, _, labels, upstream = (
                t.detach().float() if t.is_floating_point() else t for t in example()
            )
            hidden = hidden.to(dtype).requires_grad_()
            weight = weight.to(dtype).requires_grad_(head_trains)
            if chunked:
                losses = chunked_token_losses(hidden, weight, labels, chunk=4)
            else:
                losses = F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="none")
            assert losses.dtype == torch.float32
            (losses * upstream * 1024).sum().backward()
            assert hidden.grad is not None
            assert hidden.grad.dtype == dtype
            results.append((losses.detach(), hidden.grad.float(), weight.grad))
    for expected, found in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-6)
        assert (found[1] - expected[1]).abs().max() <= 0.01 * expected[1].abs().max()
        if expected[2] is not None and found[2] is not None:
            assert (found[2] - expected[2]).abs().max() <= 0.01 * expected[2].abs().max()


def test_autocast_decides_the_dtype_of_the_products() -> None:
    """Under autocast a linear head runs in bf16; so does this one, forward and backward, and gradients stay fp32."""
    hidden, weight, _, labels, _ = example(dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = chunked_token_losses(hidden, weight, labels)
        expected = F.cross_entropy(F.linear(hidden, weight).float(), labels, reduction="none")
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-6)
    losses.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is not None
    assert hidden.grad.dtype == weight.grad.dtype == torch.float32


def test_no_rows_and_no_grad() -> None:
    hidden, weight, _, labels, _ = example()
    assert chunked_token_losses(hidden[:0], weight, labels[:0]).shape == (0,)
    with torch.no_grad():
        assert not chunked_token_losses(hidden, weight, labels).requires_grad


@pytest.mark.parametrize(
    ("hidden", "weight", "labels"), [((4, 3), (5, 2), (4,)), ((4, 3), (5, 3), (3,)), ((1, 4, 3), (5, 3), (4,))]
)
def test_shapes_that_do_not_fit_are_refused(
    hidden: tuple[int, ...], weight: tuple[int, ...], labels: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"hidden|labels"):
        chunked_token_losses(torch.zeros(hidden), torch.zeros(weight), torch.zeros(labels, dtype=torch.long))


def test_a_chunk_of_logits_fits_its_budget() -> None:
    """49,152 entries of 4 bytes: 32 MiB hold 170 rows of logits."""
    assert chunk_rows(torch.empty(49_152, 0)) == 32 * 2**20 // (4 * 49_152) == 170
    assert chunk_rows(torch.empty(2**30, 0)) == 1


class Largest(TorchDispatchMode):
    """Remembers the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
        return result


@pytest.mark.parametrize("head_trains", [True, False])
def test_all_logits_never_exist_at_once(head_trains: bool) -> None:
    """512 positions and 1,000 words are 512,000 logits; with chunks of 16 no tensor exceeds the largest of [16, V],
    [N, D] and [V, D], in neither pass, and nothing of the vocabulary's width but the weight is kept for the backward.
    """
    count, width, words, chunk = 512, 8, 1000, 16
    hidden = torch.randn(count, width, requires_grad=True)
    weight = torch.randn(words, width, requires_grad=head_trains)
    labels = torch.randint(0, words, (count,))
    kept: list[int] = []

    def save(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with Largest() as largest, torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        chunked_token_losses(hidden, weight, labels, chunk=chunk).sum().backward()
    assert largest.elements <= max(chunk * words, count * width, words * width)
    assert max(kept) <= max(count * width, words * width)
    with Largest() as naive:
        F.cross_entropy(F.linear(hidden, weight), labels)
    assert naive.elements >= count * words
