"""Divergences of distributions against PyTorch on full logits, and against float64 by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.kl import DIVERGENCES, Output, chunked_divergences, dense, divergences_of_logits, sparse

N, D, V = 11, 6, 23


def full(kind: str, ours: Tensor, theirs: Tensor, temperature: float) -> Tensor:
    """The same from full logits with ``kl_div``, whose input is the second distribution."""
    q, p = (F.log_softmax(z / temperature, -1) for z in (ours, theirs))
    middle = torch.logaddexp(q, p) - math.log(2)

    def kl(first: Tensor, second: Tensor) -> Tensor:
        return F.kl_div(second, first, reduction="none", log_target=True).sum(-1)

    values = {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "js": lambda: (kl(p, middle) + kl(q, middle)) / 2,
    }
    return values[kind]() * temperature**2


def made(dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "hidden": (N, D),
        "weight": (V, D),
        "bias": (V,),
        "theirs": (N, V),
        "upstream": (N,),
    }
    return {
        name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for name, shape in shapes.items()
    }


@pytest.mark.parametrize("trains", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("options", [{}, {"scale": 0.5, "softcap": 3.0}], ids=["plain", "scaled and capped"])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("kind", DIVERGENCES)
def test_values_and_gradients(kind: Any, temperature: float, options: dict[str, Any], trains: bool) -> None:
    """In chunks of 4 of 11 positions, in float64: to 1e-12, for any upstream gradient and everything that trains."""
    data = made()
    leaves = [
        data["hidden"].requires_grad_(),
        data["weight"].requires_grad_(trains),
        data["bias"].requires_grad_(trains),
    ]
    wanted = [leaf for leaf in leaves if leaf.requires_grad]
    output = Output(data["weight"], data["bias"], **options)
    judge = dense(lambda part: data["theirs"][part], kind, temperature)
    found = chunked_divergences(data["hidden"], output, judge, temperature=temperature, chunk=4)
    logits = F.linear(data["hidden"] * options.get("scale", 1.0), data["weight"], data["bias"])
    cap = options.get("softcap")
    logits = cap * torch.tanh(logits / cap) if cap else logits
    expected = full(kind, logits, data["theirs"], temperature)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    gradients = [torch.autograd.grad(v, wanted, data["upstream"], retain_graph=True) for v in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_of_logits_that_exist(kind: Any) -> None:
    data = made()
    logits = data["theirs"].flip(0).requires_grad_()
    judge = dense(lambda part: data["theirs"][part], kind, 2.0)
    pair = [divergences_of_logits(logits, judge, slice(0, N), 2.0), full(kind, logits, data["theirs"], 2.0)]
    torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(*(torch.autograd.grad(v, logits, data["upstream"])[0] for v in pair))


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_likeliest_tokens_and_the_rest(kind: Any) -> None:
    """The K + 1 outcomes by hand with autograd; and never more than the whole divergence."""
    data = made()
    hidden = data["hidden"].requires_grad_()
    best = torch.log_softmax(data["theirs"], -1).topk(5)
    found = chunked_divergences(hidden, Output(data["weight"]), sparse(best.indices.int(), best.values, kind), chunk=4)
    logits = hidden @ data["weight"].t()
    ours = torch.log_softmax(logits, -1).gather(1, best.indices)
    grouped = [torch.cat([x, torch.log(1 - x.exp().sum(-1, keepdim=True))], -1) for x in (ours, best.values)]
    expected = full(kind, grouped[0], grouped[1], 1.0)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)
    assert bool((found <= full(kind, logits, data["theirs"], 1.0) + 1e-9).all())
    gradients = [torch.autograd.grad(v, hidden, data["upstream"], retain_graph=True)[0] for v in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-8, atol=1e-9)


def test_nothing_to_compare_is_nothing() -> None:
    hidden = torch.zeros(0, D, requires_grad=True)
    found = chunked_divergences(hidden, Output(torch.zeros(V, D)), dense(lambda part: torch.zeros(0, V), "forward"))
    assert found.shape == (0,)


@pytest.mark.parametrize("kind", DIVERGENCES)
def test_equal_distributions_have_no_divergence_and_no_gradient(kind: Any) -> None:
    """Also in bf16, where both are made by the same product."""
    data = made(torch.bfloat16)
    hidden = data["hidden"].requires_grad_()
    judge = dense(lambda part: F.linear(data["hidden"].detach()[part], data["weight"]), kind)
    found = chunked_divergences(hidden, Output(data["weight"]), judge)
    assert float(found.detach().abs().max()) < 1e-6
    assert float(torch.autograd.grad(found.sum(), hidden)[0].abs().max()) < 1e-6
