"""Fused linear maps against autograd over the plain formulas, in float64 and float32."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from burnish.ops.native import kernels
from burnish.ops.projections import Norm, Projection, gate_and_project, norm_and_project, project
from burnish.ops.rotary_attention import Setting, rotary_attention, rotated


def made(*shape: int, seed: int, grad: bool = True) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.requires_grad_(grad)


def maps(inner: int, *, frozen: bool, bias: bool) -> list[Projection]:
    """Three maps of one input: the first and the last with an update, of unequal rank and scale."""
    first = Projection(made(7, inner, seed=1), made(7, seed=2), made(3, inner, seed=3), made(7, 3, seed=4), 2.0)
    second = Projection(made(5, inner, seed=5), made(5, seed=6))
    third = Projection(made(4, inner, seed=7), made(4, seed=8), made(2, inner, seed=9), made(4, 2, seed=10), 0.5)
    found = [first, second, third]
    if frozen:
        found = [replace(p, weight=p.weight.detach(), bias=p.bias.detach()) for p in found]  # type: ignore[union-attr]
    return found if bias else [replace(p, bias=None) for p in found]


def plain(x: Tensor, p: Projection) -> Tensor:
    """x W^T + b + s (x A^T) B^T, as the formula stands."""
    update = 0.0 if p.A is None or p.B is None else p.scale * (x @ p.A.T) @ p.B.T
    return x @ p.weight.T + (0.0 if p.bias is None else p.bias) + update


def gradients(outputs: list[Tensor], wanted: list[Tensor]) -> list[Tensor]:
    """Gradients of a weighted sum in which every output has weights of its own."""
    loss = sum((o * made(*o.shape, seed=40 + i, grad=False).to(o.dtype)).sum() for i, o in enumerate(outputs))
    return list(torch.autograd.grad(loss, wanted))  # type: ignore[arg-type]


def leaves(projections: list[Projection]) -> list[Tensor]:
    return [t for p in projections for t in p.tensors if t is not None and t.requires_grad]


def same(fused: list[Tensor], truth: list[Tensor], wanted: list[Tensor]) -> None:
    for a, b in zip(fused, truth, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    for a, b in zip(gradients(fused, wanted), gradients(truth, wanted), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_project(frozen: bool, bias: bool) -> None:
    """Outputs, and gradients of x, A, B and of the weights that are trained."""
    x, parts = made(2, 6, 11, seed=0), maps(11, frozen=frozen, bias=bias)
    same(project(x, parts), [plain(x, p) for p in parts], [x, *leaves(parts)])


@pytest.mark.parametrize("added", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_norm_and_project(added: bool, frozen: bool) -> None:
    """The sum passes through and is normed; its gradient is that of both ways together."""
    x, delta, weight = made(6, 11, seed=20), made(6, 11, seed=21), made(11, seed=22)
    parts = maps(11, frozen=frozen, bias=True)
    total, outputs = norm_and_project(x, delta if added else None, Norm(weight, 1e-5), parts)
    s = x + delta if added else x
    normed = s * torch.rsqrt(s.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
    wanted = [x, *([delta] if added else []), weight, *leaves(parts)]
    same([total, *outputs], [s, *(plain(normed, p) for p in parts)], wanted)


@pytest.mark.parametrize("frozen", [True, False])
def test_gate_and_project(frozen: bool) -> None:
    gate, up, (part, *_) = made(6, 11, seed=30), made(6, 11, seed=31), maps(11, frozen=frozen, bias=True)
    output = gate_and_project(gate, up, part)
    same([output], [plain(F.silu(gate) * up, part)], [gate, up, *leaves([part])])


def test_what_is_kept_for_the_backward_pass() -> None:
    """The normed input and the gated product are made again: nothing of their shape is saved beside the originals."""
    x, weight, parts = made(64, 11, seed=0), made(11, seed=1, grad=False), maps(11, frozen=True, bias=False)
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        _, (gate, _, _) = norm_and_project(x, None, Norm(weight, 1e-5), parts)
        gate_and_project(gate, gate * 2, Projection(made(3, 7, seed=2, grad=False), None))
    wide = [t for t in kept if t.shape == x.shape]
    assert len(wide) == 1 and wide[0].data_ptr() == x.data_ptr()
    assert sum(t.shape == gate.shape for t in kept) == 2  # gate and up, not their product


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_rotary_attention(dtype: torch.dtype) -> None:
    """Each row of the pack by itself, in float64 from the formula; bf16 takes the compiled kernel if it is there."""
    lengths, heads, key_heads, width = (9, 20), 4, 2, 16
    tokens = sum(lengths)
    angles = torch.rand(tokens, width // 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    cosine, sine = (torch.cat((f(angles), f(angles)), 1).to(dtype) for f in (torch.cos, torch.sin))
    q, k, v = (made(tokens, n * width, seed=i, grad=False) for i, n in enumerate((heads, key_heads, key_heads)))
    given = [t.to(dtype).requires_grad_() for t in (q, k, v)]
    truth = [t.detach().double().requires_grad_() for t in given]

    def turned(t: Tensor) -> Tensor:
        return rotated(t.view(tokens, -1, width).transpose(0, 1), cosine.double(), sine.double())

    tq, tk = turned(truth[0]), turned(truth[1]).repeat_interleave(2, 0)
    tv = truth[2].view(tokens, -1, width).transpose(0, 1).repeat_interleave(2, 0)
    rows = zip(tq.split(lengths, 1), tk.split(lengths, 1), tv.split(lengths, 1), strict=True)
    masks = [torch.ones(n, n, dtype=torch.bool).tril() for n in lengths]
    parts = [
        (a @ b.transpose(1, 2) * 0.25).masked_fill(~m, -torch.inf).softmax(-1) @ c
        for (a, b, c), m in zip(rows, masks, strict=True)
    ]
    wanted = torch.cat(parts, 1).transpose(0, 1).reshape(tokens, -1)
    copies = [t * 1 for t in given]  # the kernel turns queries and keys in place
    found = rotary_attention(*copies, cosine, sine, Setting(lengths, width, 0.25))
    tolerance = 1e-12 if dtype == torch.float64 else 0.02
    up = made(tokens, heads * width, seed=9, grad=False)
    ours = torch.autograd.grad(found, given, up.to(dtype))
    theirs = torch.autograd.grad(wanted, truth, up.to(dtype).double())
    for a, b in zip((found, *ours), (wanted, *theirs), strict=True):
        assert float((a.detach().double() - b.detach()).abs().max()) <= tolerance * float(b.detach().abs().max())


def test_float32_takes_the_kernels_and_agrees() -> None:
    """The compiled norm and gate in fp32 give the plain formulas' gradients to 1e-5."""
    x, weight, parts = made(6, 32, seed=0), made(32, seed=1), maps(32, frozen=True, bias=False)
    half = [replace(p, **{n: t.detach().float().requires_grad_(t.requires_grad) for n, t in named(p)}) for p in parts]
    x32, w32 = x.detach().float().requires_grad_(), weight.detach().float()
    assert kernels.usable(x32, w32) or kernels.library() is None
    total, outputs = norm_and_project(x32, None, Norm(w32, 1e-5), half)
    normed = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
    truth = gradients([x, *(plain(normed, p) for p in parts)], [x, *leaves(parts)])
    for a, b in zip(gradients([total, *outputs], [x32, *leaves(half)]), truth, strict=True):
        assert float((a.double() - b).abs().max()) <= 1e-5 * float(b.abs().max())


def named(p: Projection) -> list[tuple[str, Tensor]]:
    return [(n, t) for n, t in (("weight", p.weight), ("bias", p.bias), ("A", p.A), ("B", p.B)) if t is not None]
