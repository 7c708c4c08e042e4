"""The fused layers through Triton's kernels, interpreted, against the plain path: values and gradients in fp32."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.models.forward import supports_packing
from burnish.models.fuse import fuse
from burnish.ops import elementwise, rotary_attention
from burnish.ops.kernels import fitting_kernel
from burnish.ops.projections import Norm, Projection, gate_and_project, norm_and_project
from burnish.ops.rotary_attention import Setting
from tests.ops.triton_interpreter import assert_near, draw, interpreted

NEAR = 1e-5


def take(table: str, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """From here on tensors on the processor go this way; how often each kernel is called is counted."""
    calls: Counter[str] = Counter()

    def counted(
        find: Callable[..., Callable[..., Any] | None], name: str, *tensors: Tensor
    ) -> Callable[..., Any] | None:
        kernel = find(*tensors)

        def run(*args: Any) -> Any:
            calls[name] += 1
            return kernel(*args)  # type: ignore[misc]

        return run if kernel else None

    def element(name: str, *tensors: Tensor) -> Callable[..., Any] | None:
        return counted(partial(elementwise._triton, name), name, *tensors)

    turn = partial(counted, rotary_attention._ROTARY["cuda"], "rotary")
    monkeypatch.setattr(elementwise, "_KERNELS", {"cpu": element} if table == "triton" else {})
    monkeypatch.setattr(rotary_attention, "_ROTARY", {"cuda": turn, **({"cpu": turn} if table == "triton" else {})})
    return calls


def maps(inner: int, *, trained: bool) -> list[Projection]:
    """A map with an update and one without."""
    drawn = [draw(7, inner, seed=1), draw(7, seed=2), draw(5, inner, seed=3)]
    weight, bias, other = drawn if trained else [t.detach() for t in drawn]
    return [Projection(weight, bias, draw(3, inner, seed=4), draw(7, 3, seed=5), 0.5), Projection(other)]


def both_ways(
    run: Callable[[], list[Tensor]], wanted: list[Tensor], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[Tensor], Counter[str]]:
    """Outputs and gradients by Triton and by the plain path, each output weighted by numbers of its own."""
    found, counts = [], []
    for table in ("triton", "plain"):
        counts.append(take(table, monkeypatch))
        outputs = run()
        upstream = [draw(*o.shape, seed=50 + i).detach() for i, o in enumerate(outputs)]
        found.append([*outputs, *torch.autograd.grad(outputs, wanted, upstream)])
    assert not counts[1]
    return found[0], found[1], counts[0]


def leaves(projections: list[Projection]) -> list[Tensor]:
    return [t for p in projections for t in p.tensors if t is not None and t.requires_grad]


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_norm_and_project(added: bool, trained: bool, offset: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sum's own gradient, and that which comes through the norm; a norm that is trained or not.

    Three calls: the norm, the norm made again, its gradient.
    """
    interpreted("rms_norm")
    x, delta, weight = draw(2, 5, 11, seed=6), draw(2, 5, 11, seed=7), draw(11, seed=8)
    weight, parts = weight if trained else weight.detach(), maps(11, trained=trained)

    def run() -> list[Tensor]:
        total, outputs = norm_and_project(x, delta if added else None, Norm(weight, 1e-5, offset), parts)
        return [total, *outputs]

    wanted = [x, *([delta] if added else []), *([weight] if trained else []), *leaves(parts)]
    ours, plain, calls = both_ways(run, wanted, monkeypatch)
    assert calls == {"rms_norm": 2, "rms_norm_gradient": 1}
    for one, other in zip(ours, plain, strict=True):
        assert_near(one, other, NEAR)


@pytest.mark.parametrize("trained", [True, False])
def test_gate_and_project(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls: the gate, the gate made again for the gradient of A, its gradient."""
    interpreted("swiglu")
    gate, up, (part, _) = draw(2, 5, 11, seed=6, scale=3.0), draw(2, 5, 11, seed=7), maps(11, trained=trained)
    wanted = [gate, up, *leaves([part])]
    ours, plain, calls = both_ways(lambda: [gate_and_project(gate, up, part)], wanted, monkeypatch)
    assert calls == {"swiglu": 2, "swiglu_gradient": 1}
    for one, other in zip(ours, plain, strict=True):
        assert_near(one, other, NEAR)


@pytest.mark.parametrize("window", [None, 4])
def test_rotary_attention(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of 9 and 4 tokens, three query heads to a key head: queries and keys are turned in one call."""
    interpreted("rotary")
    lengths, width = (9, 4), 8
    angles = draw(13, width // 2, seed=1).detach()
    cosine, sine = (torch.cat((f(angles), f(angles)), 1) for f in (torch.cos, torch.sin))
    given = [draw(13, heads * width, seed=heads) for heads in (6, 2, 2)]
    setting = Setting(lengths, width, 0.3, window=window)

    def run() -> list[Tensor]:
        return [rotary_attention.rotary_attention(*(t * 1 for t in given), cosine, sine, setting)]

    ours, plain, calls = both_ways(run, given, monkeypatch)
    assert calls == {"rotary": 1}
    for one, other in zip(ours, plain, strict=True):
        assert_near(one, other, NEAR)


def test_a_model_is_fused_through_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe of ``fuse`` holds its layers against those of `transformers`: two norms, a gate, one turn for each."""
    for room in ("rms_norm", "swiglu", "rotary"):
        interpreted(room)
    sizes = {"hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "vocab_size": 40}
    model = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=3, num_key_value_heads=1)).eval()
    assert supports_packing(model)
    calls = take("triton", monkeypatch)
    assert fuse(model) == 2
    assert calls == {"rms_norm": 4, "swiglu": 2, "rotary": 2}


@pytest.mark.parametrize("formats", [(torch.float64, torch.float64), (torch.bfloat16, torch.float32)])
def test_formats_that_the_kernels_are_not_for_take_the_plain_path(formats: tuple[torch.dtype, torch.dtype]) -> None:
    """float64 would lose its digits; mixed formats promote as PyTorch says."""
    one, other = (torch.zeros(2, dtype=dtype) for dtype in formats)
    assert fitting_kernel("rms_norm", "forward", one, other) is None
    assert elementwise._KERNELS["cuda"]("swiglu", one, other) is None


def test_every_kernel_of_the_tables_exists() -> None:
    """The names stand in a table, so that Triton is imported only when it is asked for."""
    assert elementwise._TRITON.keys() == elementwise._COMPILED.keys()
    for file, name in elementwise._TRITON.values():
        assert callable(getattr(interpreted(file), name))
