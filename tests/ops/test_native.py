"""The compiled kernels against float64 arithmetic and against PyTorch, and what happens without them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.native import kernels, library

needs_kernels = pytest.mark.skipif(library.library() is None, reason=library.why_not() or "there are kernels")
needs_attention = pytest.mark.skipif(
    library.library() is None or not kernels.attention_usable(torch.zeros(1, 1, 64, dtype=torch.bfloat16)),
    reason="the processor has no dot products of bf16 pairs",
)
FORMATS = [(torch.float32, 2e-6), (torch.bfloat16, 2**-8)]


def close(found: Tensor, wanted: Tensor, tolerance: float) -> None:
    """Largest difference relative to the largest wanted value."""
    assert float((found.double() - wanted.double()).abs().max()) <= tolerance * float(wanted.double().abs().max())


def made(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), FORMATS)
@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("added", [False, True])
def test_rms_norm(dtype: torch.dtype, tolerance: float, offset: float, added: bool) -> None:
    """y and the gradient of x from float64 autograd over the formula; 37 numbers are no multiple of any vector."""
    x, delta, w, dy, through = (made(5, 37, dtype=dtype, seed=i) for i in range(5))
    total, y, rstd = kernels.rms_norm(x, delta if added else None, w[0].contiguous(), 1e-5, offset)
    wide = total.double().requires_grad_()
    truth = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5) * (w[0].double() + offset)
    truth.backward(dy.double())
    close(y, truth.detach(), 2 * tolerance)
    assert torch.equal(total, x + delta if added else x)
    close(rstd, torch.rsqrt(total.double().pow(2).mean(-1) + 1e-5), 1e-6)
    found = kernels.rms_norm_gradient(dy, total, w[0].contiguous(), rstd, through, offset)
    assert wide.grad is not None
    close(found, wide.grad + through.double(), 2 * tolerance)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), FORMATS)
def test_swiglu(dtype: torch.dtype, tolerance: float) -> None:
    """silu(g) u and both gradients from float64; gates of +-80 saturate and overflow nothing."""
    gate, up, dy = (made(4, 53, dtype=dtype, seed=i) for i in range(3))
    gate[0, :4] = torch.tensor([80.0, -80.0, 0.0, -200.0]).to(dtype)
    g, u = gate.double().requires_grad_(), up.double().requires_grad_()
    truth = F.silu(g) * u
    truth.backward(dy.double())
    close(kernels.swiglu(gate, up), truth.detach(), 2 * tolerance)
    for found, wanted in zip(kernels.swiglu_gradient(dy, gate, up), (g.grad, u.grad), strict=True):
        assert wanted is not None
        close(found, wanted, 2 * tolerance)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), FORMATS)
@pytest.mark.parametrize("turned", [16, 8])
def test_rotary(dtype: torch.dtype, tolerance: float, turned: int) -> None:
    """Pair (i, i + half) turns by its angle, what lies behind ``turned`` stays, and turning back gives x again."""
    x = made(6, 3 * 16, dtype=dtype)
    angles = torch.arange(6)[:, None] * torch.tensor([10000 ** (-2 * i / turned) for i in range(turned // 2)])
    cosine, sine = (torch.cat((f(angles), f(angles)), 1).to(dtype) for f in (torch.cos, torch.sin))
    wanted = x.double().view(6, 3, 16).clone()
    first, second = wanted[..., : turned // 2].clone(), wanted[..., turned // 2 : turned].clone()
    c, s = cosine.double()[:, None, : turned // 2], sine.double()[:, None, : turned // 2]
    wanted[..., : turned // 2], wanted[..., turned // 2 : turned] = first * c - second * s, second * c + first * s
    found = kernels.rotate_(x.clone(), cosine, sine, 16, 1.0)
    close(found, wanted.view(6, 48), tolerance)
    close(kernels.rotate_(found, cosine, sine, 16, -1.0), x, 4 * tolerance)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), FORMATS)
def test_softmax_gradient(dtype: torch.dtype, tolerance: float) -> None:
    """Losses and softmax - onehot from float64; logits of 300 overflow nothing, an ignored row is zero."""
    logits, labels = made(4, 101, dtype=dtype) * 3, torch.tensor([0, 100, -100, 7])
    logits[3, 5] = 300.0
    wide = logits.double()
    found = logits.clone()
    losses = kernels.softmax_gradient_(found, labels, gradient=True)
    close(losses, F.cross_entropy(wide, labels, reduction="none", ignore_index=-100), 2e-6)
    wanted = wide.softmax(-1) - F.one_hot(labels.clamp(min=0), 101)
    wanted[2] = 0
    close(found, wanted, tolerance)
    assert losses[2] == 0
    untouched = logits.clone()
    assert torch.equal(kernels.softmax_gradient_(untouched, labels, gradient=False), losses)
    assert torch.equal(untouched, logits)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_nan_stays_one(dtype: torch.dtype) -> None:
    """What is not a number must reach the loss, or a run that went wrong would not be stopped."""
    x = made(2, 40, dtype=dtype)
    x[0, 3] = math.nan
    w = torch.ones(40, dtype=dtype)
    assert kernels.rms_norm(x, None, w, 1e-5, 0.0)[1][0].isnan().all()
    assert kernels.swiglu(x, x)[0, 3].isnan()
    assert kernels.softmax_gradient_(x.clone(), torch.tensor([1, 1]), gradient=True)[0].isnan()
    assert not kernels.rms_norm(x, None, w, 1e-5, 0.0)[1][1].isnan().any()


def attention_in_double(
    q: Tensor, k: Tensor, v: Tensor, lengths: list[int], causal: bool, window: int | None
) -> Tensor:
    """softmax(Q K^T / sqrt(E) + M) V row by row, heads repeated, in the arguments' precision."""
    groups, outputs = q.shape[1] // k.shape[1], []
    parts = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    for one_q, one_k, one_v in parts:
        qh, kh, vh = (t.transpose(0, 1) for t in (one_q, one_k, one_v))
        kh, vh = kh.repeat_interleave(groups, 0), vh.repeat_interleave(groups, 0)
        i, j = torch.arange(len(one_q))[:, None], torch.arange(len(one_q))[None]
        seen = (j <= i) if causal else torch.ones_like(i == j)
        if window is not None:
            seen = seen & ((i - j).abs() < window)
        scores = (qh @ kh.transpose(1, 2) * q.shape[-1] ** -0.5).masked_fill(~seen, -math.inf)
        outputs.append((scores.softmax(-1) @ vh).transpose(0, 1))
    return torch.cat(outputs)


@needs_attention
@pytest.mark.parametrize("lengths", [[1], [48], [64, 3, 129], [200, 77]])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 10, 70])
@pytest.mark.parametrize("shape", [(6, 2, 64), (2, 2, 32), (2, 1, 128), (1, 1, 80)])
def test_attention(lengths: list[int], causal: bool, window: int | None, shape: tuple[int, int, int]) -> None:
    """Output and gradients against float64 autograd: bf16 rounds to 2^-9, and sums of rounded numbers stay near it.

    Values have a mean of 3, so that the gradients of the weights are small differences of large numbers.
    """
    heads, key_heads, width = shape
    tokens = sum(lengths)
    q, k, v, up = (
        made(tokens, n, width, dtype=torch.bfloat16, seed=i) for i, n in enumerate((heads, key_heads, key_heads, heads))
    )
    v = v + 3
    wide = [t.double().requires_grad_() for t in (q, k, v)]
    truth = attention_in_double(*wide, lengths, causal, window)
    truth.backward(up.double())
    options = {"causal": causal, "scale": width**-0.5, "window": window}
    output, logsum = kernels.attention(q, k, v, lengths, **options)
    close(output, truth.detach(), 0.01)
    found = kernels.attention_gradient(up, (q, k, v, logsum), lengths, **options)
    largest = max(float(w.grad.abs().max()) for w in wide if w.grad is not None)
    for gradient, w in zip(found, wide, strict=True):
        assert w.grad is not None
        assert float((gradient.double() - w.grad).abs().max()) <= 0.01 * largest


@needs_attention
def test_attention_with_dropout() -> None:
    """The mask is read off an output, and with it output and gradients are those of float64.

    Query i gives sum_j m_ij p_ij v_j over the keys j. With v_j the unit vector e_j that is m_ij p_ij itself, and p is
    known, so m_ij is 0 or 1 / (1 - rate).
    """
    n, width, rate = 16, 16, 0.3
    q, k = (made(n, 1, width, dtype=torch.bfloat16, seed=i) for i in range(2))
    drop = kernels.Drop(rate, 12345678901)
    options = {"causal": False, "scale": 0.25, "window": None}
    unit = torch.eye(n, width, dtype=torch.bfloat16)[:, None]
    shown = kernels.attention(q, k, unit, [n], **options, drop=drop)[0][:, 0].double()
    p = (q[:, 0].double() @ k[:, 0].double().T * 0.25).softmax(-1)
    mask = (shown > 0.5 * p).double() / (1 - rate)
    close(shown, p * mask, 0.01)
    assert 0.55 < float((mask > 0).double().mean()) < 0.85  # 256 draws of 0.7: five standard deviations are 0.14
    v, up = (made(n, 1, width, dtype=torch.bfloat16, seed=i) for i in (2, 3))
    wide = [t[:, 0].double().requires_grad_() for t in (q, k, v)]
    truth = ((wide[0] @ wide[1].T * 0.25).softmax(-1) * mask) @ wide[2]
    truth.backward(up[:, 0].double())
    output, logsum = kernels.attention(q, k, v, [n], **options, drop=drop)
    close(output[:, 0], truth.detach(), 0.01)
    for found, w in zip(
        kernels.attention_gradient(up, (q, k, v, logsum), [n], **options, drop=drop), wide, strict=True
    ):
        assert w.grad is not None
        close(found[:, 0], w.grad, 0.02)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), FORMATS)
@pytest.mark.parametrize("rate", [0.0, 0.25])
def test_layer_norm(dtype: torch.dtype, tolerance: float, rate: float) -> None:
    """s, y and both gradients from float64; with ones for x and zeros for the residual, s is the mask itself.

    A gradient that reaches s itself is added to that of the residual, and dropped for x."""
    x, residual, w, b, dy, ds = (made(5, 41, dtype=dtype, seed=i) for i in range(6))
    drop = kernels.Drop(rate, 7)
    total, y, mean, rstd = kernels.layer_norm(x, residual, w[0].contiguous(), b[0].contiguous(), 1e-5, drop)
    ones, zeros = torch.ones_like(x), torch.zeros_like(x)
    mask = kernels.layer_norm(ones, zeros, w[0].contiguous(), b[0].contiguous(), 1e-5, drop)[0].double() > 0
    assert abs(float(mask.double().mean()) - (1 - rate)) < 0.16  # 205 draws: five standard deviations
    mask = mask.double() / (1 - rate)
    wide = [t.double().requires_grad_() for t in (x, residual)]
    s = wide[1] + wide[0] * mask
    close(total, s.detach(), 2 * tolerance)
    exact = total.double().requires_grad_()
    truth = F.layer_norm(exact, (41,), w[0].double(), b[0].double(), 1e-5)
    truth.backward(dy.double())
    close(y, truth.detach(), 2 * tolerance)
    grad_x, grad_residual = kernels.layer_norm_gradient(dy, total, w[0].contiguous(), mean, rstd, drop)
    assert exact.grad is not None
    close(grad_residual, exact.grad, 2 * tolerance)
    close(grad_x, exact.grad * mask, 3 * tolerance)
    both = kernels.layer_norm_gradient(dy, total, w[0].contiguous(), mean, rstd, drop, ds)
    close(both[1], exact.grad + ds.double(), 3 * tolerance)
    close(both[0], (exact.grad + ds.double()) * mask, 4 * tolerance)


@needs_kernels
@pytest.mark.parametrize(("dtype", "tolerance"), FORMATS)
def test_gelu(dtype: torch.dtype, tolerance: float) -> None:
    """x Phi(x) and its slope from float64, from -30 to 30."""
    x, dy = torch.linspace(-30, 30, 4 * 333).view(4, 333).to(dtype), made(4, 333, dtype=dtype)
    wide = x.double().requires_grad_()
    truth = F.gelu(wide)
    truth.backward(dy.double())
    assert wide.grad is not None
    assert float((kernels.gelu(x).double() - truth.detach()).abs().max()) <= 30 * tolerance
    grad, again = kernels.gelu_gradient_(dy.clone(), x)
    close(grad, wide.grad, 4 * tolerance)
    assert float((again.double() - truth.detach()).abs().max()) <= 30 * tolerance


@needs_attention
def test_attention_takes_tensors_as_they_lie() -> None:
    """Heads before tokens, as models hold them, give the numbers of tokens before heads."""
    q, k, v = (made(70, n, 64, dtype=torch.bfloat16, seed=n) for n in (4, 2, 2))
    turned = [t.transpose(0, 1).contiguous().transpose(0, 1) for t in (q, k, v)]
    options = {"causal": True, "scale": 0.125, "window": None}
    output, logsum = kernels.attention(q, k, v, [70], **options)
    assert torch.equal(kernels.attention(*turned, [70], **options)[0], output)
    plain = kernels.attention_gradient(output, (q, k, v, logsum), [70], **options)
    other = kernels.attention_gradient(output, (*turned, logsum), [70], **options)
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@needs_attention
def test_attention_is_the_same_to_the_bit_every_time() -> None:
    """However its tasks fall to the threads: each sums by itself."""
    q, k, v, up = (made(500, n, 32, dtype=torch.bfloat16, seed=i) for i, n in enumerate((6, 3, 3, 6)))
    options = {"causal": True, "scale": 0.2, "window": None}
    runs = []
    for _ in range(3):
        output, logsum = kernels.attention(q, k, v, [300, 200], **options)
        runs.append((output, *kernels.attention_gradient(up, (q, k, v, logsum), [300, 200], **options)))
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(runs[0], run, strict=True))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Nothing compiled yet; what this process had loaded is back afterwards."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    monkeypatch.setattr(library._State, "reason", "")
    library.library.cache_clear()
    yield tmp_path
    library.library.cache_clear()


def test_without_a_compiler_the_reason_is_told(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert library.library() is None and "no C compiler" in library.why_not()
    assert not kernels.usable(torch.zeros(2, 2))


def test_left_out_on_request(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_NATIVE", "0")
    assert library.library() is None and "BURNISH_NATIVE" in library.why_not()


@pytest.mark.skipif(library.find_compiler() is None, reason="no C compiler")
def test_a_compiler_that_fails_is_no_error(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-no-such-flag"))
    assert library.library() is None and "could not be compiled" in library.why_not()
    assert not list(empty_cache.rglob("*.so"))


@needs_kernels
def test_compiled_once(empty_cache: Path) -> None:
    """A second process finds the file of the first."""
    assert library.library() is not None
    (made_file,) = empty_cache.rglob("*.so")
    written = made_file.stat().st_mtime_ns
    library.library.cache_clear()
    assert library.library() is not None and made_file.stat().st_mtime_ns == written
