"""The gate's kernel against float64 and against the modules of `transformers`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaMLP

from tests.ops.triton_interpreter import PROMISED, assert_near, draw, exact, interpreted

PLAIN = {"silu": F.silu, "gelu_tanh": lambda x: F.gelu(x, approximate="tanh")}


@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # NumPy's, in the interpreter: 1 / (1 + inf) is 0
@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("activation", PLAIN)
@pytest.mark.parametrize("shape", [(3, 5, 7), (1,), (2, 1500), (0, 4)])
def test_values_and_gradients(shape: tuple[int, ...], activation: str, dtype: torch.dtype) -> None:
    """Against float64, far into both tails: the gate spreads over about -15 to 15."""
    gated = interpreted("swiglu").gated
    gate, up = draw(*shape, dtype=dtype, scale=5.0), draw(*shape, dtype=dtype, seed=1)
    gate64, up64 = exact(gate, up)
    found, expected = gated(gate, up, activation), PLAIN[activation](gate64) * up64
    assert found.dtype == dtype
    upstream = draw(*shape, dtype=dtype, seed=2).detach()
    found.backward(upstream)
    expected.backward(upstream.double())
    for one, other in ((found, expected), (gate.grad, gate64.grad), (up.grad, up64.grad)):
        assert_near(one, other, PROMISED[dtype])


@pytest.mark.parametrize(("name", "activation"), [("silu", "silu"), ("gelu_pytorch_tanh", "gelu_tanh")])
def test_it_is_the_feed_forward_layer_of_the_library(name: str, activation: str) -> None:
    """LlamaMLP, and with Gemma's activation: output and the gradients of input and weights, fp32."""
    gated = interpreted("swiglu").gated
    layer = LlamaMLP(LlamaConfig(hidden_size=12, intermediate_size=20, num_attention_heads=2, hidden_act=name))
    x = draw(2, 3, 12)
    found = layer.down_proj(gated(layer.gate_proj(x), layer.up_proj(x), activation))
    expected = layer(x)
    asked = (x, *layer.parameters())
    assert_near(found, expected, 1e-6)
    upstream = draw(2, 3, 12, seed=1).detach()
    ours, theirs = (torch.autograd.grad(y, asked, upstream) for y in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert_near(one, other, 1e-6)


def test_halves_of_one_projection_are_taken() -> None:
    """Phi-3 makes gate and up in one product; the halves of its output are not contiguous."""
    gated = interpreted("swiglu").gated
    both = draw(4, 16)
    gate, up = both.chunk(2, dim=-1)
    ours: Tensor = gated(gate, up)
    theirs = F.silu(gate) * up
    assert_near(ours, theirs, 1e-6)
    assert_near(*(torch.autograd.grad(y.sum(), both)[0] for y in (ours, theirs)), 1e-6)  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    gated = interpreted("swiglu").gated
    with pytest.raises(ValueError, match="one shape and format"):
        gated(draw(2, 3), draw(3, 2))
    with pytest.raises(ValueError, match="silu, gelu_tanh"):
        gated(draw(2), draw(2), "relu")
