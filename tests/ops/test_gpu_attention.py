"""Packed attention for GPUs: which kernel is chosen, what it is given, and what comes of it.

The kernels need a GPU. In their place stand: for flash attention, the arithmetic of its documentation in float64; for
flex attention, itself, uncompiled. Shapes: H and K heads, T tokens, E width.
"""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from burnish.ops import attention, gpu_attention
from burnish.ops.attention import packed_attention
from burnish.ops.gpu_attention import (
    Pack,
    choose,
    flexible_attention,
    pack_mask,
    row_ends,
    varlen_attention,
    window_of,
)

LENGTHS = (5, 1, 9, 3)
USUAL = Pack("cuda", (8, 0), torch.bfloat16, 128, 128, 0.0, None)


def drawn(heads: int, groups: int, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, count, sum(LENGTHS), width) for count in (heads, groups, groups)]
    query, key, value = (torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    return query, key, value


def flash(
    query_THE: Tensor, key_TKE: Tensor, value_TKE: Tensor, ends_q: Tensor, ends_k: Tensor, max_q: int, max_k: int,
    *, scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """What `torch.nn.attention.varlen.varlen_attn` documents, row by row from the ends that it is given."""
    assert ends_q.dtype == ends_k.dtype == torch.int32 and enable_gqa == (query_THE.shape[1] != key_TKE.shape[1])
    assert int(ends_q.diff().max()) == max_q and int(ends_k.diff().max()) == max_k
    repeats = query_THE.shape[1] // key_TKE.shape[1]
    key, value = key_TKE.repeat_interleave(repeats, 1), value_TKE.repeat_interleave(repeats, 1)
    before, behind = (n if n >= 0 else max_q for n in window_size)
    parts = []
    for begin, end in zip(ends_q[:-1].tolist(), ends_q[1:].tolist(), strict=True):
        place = torch.arange(end - begin)
        away = place[None] - place[:, None]  # of a key from its query
        scores = torch.einsum("qhe,khe->hqk", query_THE[begin:end], key[begin:end])
        scores = scores * (query_THE.shape[-1] ** -0.5 if scale is None else scale)
        weights = scores.masked_fill((away < -before) | (away > behind), -torch.inf).softmax(-1)
        parts.append(torch.einsum("hqk,khe->qhe", weights, value[begin:end]))
    return torch.cat(parts)


def without_groups(*arguments: Any, scale: float | None = None, window_size: tuple[int, int] = (-1, -1)) -> Tensor:
    """The signature of PyTorch 2.11."""
    return flash(*arguments, scale=scale, window_size=window_size)


@pytest.fixture(autouse=True)
def _forget() -> Any:
    yield
    gpu_attention._groups_in_kernel.cache_clear()


@pytest.mark.parametrize("kernel", [flash, without_groups])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_flash_attention_is_given_what_it_wants(
    kernel: Any, causal: bool, heads: tuple[int, int], window: int | None, scaling: float | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Values and gradients are those of the plain path, row by row, to 1e-10 in float64."""
    monkeypatch.setattr(gpu_attention, "_varlen", lambda: kernel)
    gpu_attention._groups_in_kernel.cache_clear()
    assert gpu_attention._groups_in_kernel() == (kernel is flash)
    tensors = drawn(*heads)
    options: dict[str, Any] = {"causal": causal, "scaling": scaling, "sliding_window": window}
    found, expected = (attend(*tensors, LENGTHS, **options) for attend in (varlen_attention, packed_attention))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    upstream = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=found.dtype)
    ours, theirs = (torch.autograd.grad(output, tensors, upstream) for output in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def test_the_real_function_has_the_arguments_that_are_used() -> None:
    """Held against the installed PyTorch, so that a renamed argument is seen without a GPU."""
    tensor = torch.zeros(1, 2, 18, 8, dtype=torch.float16)
    with pytest.raises(NotImplementedError, match="_flash_attention_forward"):  # of this device: arguments were taken
        varlen_attention(tensor, tensor, tensor, LENGTHS, causal=True, sliding_window=3)


@pytest.mark.parametrize(
    ("change", "chosen"),
    [
        ({}, varlen_attention),
        ({"dtype": torch.float16, "width": 64, "value_width": 64}, varlen_attention),
        ({"dtype": torch.float32}, None),
        ({"device": "cpu", "capability": (0, 0)}, None),
        ({"capability": (7, 5)}, None),
        ({"dropout": 0.1}, None),
        ({"value_width": 64}, None),
        ({"width": 100, "value_width": 100}, None),
        ({"width": 256, "value_width": 256}, varlen_attention),
        ({"width": 256, "value_width": 256, "capability": (9, 0)}, varlen_attention),
        ({"width": 256, "value_width": 256, "capability": (8, 6)}, None),
        ({"softcap": 50.0}, flexible_attention),
        ({"softcap": 50.0, "width": 256, "value_width": 256}, flexible_attention),
        ({"softcap": 50.0, "dropout": 0.1}, None),
    ],
)
def test_the_choice(change: dict[str, Any], chosen: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_attention, "has_triton", lambda: True)
    assert choose(USUAL._replace(**change)) is chosen


def test_without_triton_capped_scores_go_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_attention, "has_triton", lambda: False)
    assert choose(USUAL._replace(softcap=50.0)) is None


def test_a_pack_goes_to_the_kernel_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the arguments of the model."""
    tensors = drawn(4, 2)
    expected = packed_attention(*tensors, LENGTHS, causal=True, sliding_window=3)
    monkeypatch.setattr(gpu_attention, "_varlen", lambda: flash)
    monkeypatch.setattr(attention, "gpu_attention", lambda *tensors, **options: varlen_attention)
    torch.testing.assert_close(packed_attention(*tensors, LENGTHS, causal=True, sliding_window=3), expected)


def test_windows_and_ends_by_hand() -> None:
    """Less than 3 positions away: 2 neighbours on a side. A window of 9 changes nothing where no row is longer."""
    assert window_of(9, True, None) == window_of(9, True, 9) == (-1, 0)
    assert window_of(9, False, None) == window_of(9, False, 12) == (-1, -1)
    assert window_of(9, True, 3) == (2, 0) and window_of(9, False, 3) == (2, 2)
    assert row_ends(LENGTHS, torch.device("cpu")).tolist() == [0, 5, 6, 15, 18]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 3, 100])
@pytest.mark.parametrize("cap", [None, 1.5])
@pytest.mark.parametrize("heads", [(4, 4), (6, 2)])
def test_flex_attention_is_the_plain_path(
    causal: bool, window: int | None, cap: float | None, heads: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Uncompiled it makes all scores from the same mask and cap; values to fp32's resolution (it has no gradients
    on a processor)."""
    monkeypatch.setattr(gpu_attention, "_flex", lambda: flex_attention)
    tensors = [t.detach().float() for t in drawn(*heads, width=16)]
    options: dict[str, Any] = {"causal": causal, "scaling": 0.3, "sliding_window": window, "softcap": cap}
    found, expected = (attend(*tensors, LENGTHS, **options) for attend in (flexible_attention, packed_attention))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("lengths", [(1,), (128, 128), (5, 1, 300, 90), (700,), (3,) * 100])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [None, 1, 130])
def test_the_mask_looks_at_the_blocks_that_the_library_finds(
    lengths: tuple[int, ...], causal: bool, window: int | None
) -> None:
    """`create_block_mask` asks the mask about every pair of tokens; ours finds the same blocks from the rows' bounds.

    It tells whole blocks from partial ones; together they are ours.
    """
    ours = pack_mask(lengths, causal, window, torch.device("cpu"))
    theirs = create_block_mask(ours.mask_mod, None, None, sum(lengths), sum(lengths), device="cpu")
    assert torch.equal(ours.to_dense().bool(), theirs.to_dense().bool())


@pytest.mark.slow
def test_cap_and_mask_can_be_compiled() -> None:
    """For a processor here, forward only; two packs of different lengths, as a run has them."""
    if shutil.which("g++") is None:
        pytest.skip("there is no g++ to compile with")
    for lengths in (LENGTHS, (40, 70, 30), (300,)):
        generator = torch.Generator().manual_seed(0)
        query, key, value = (torch.randn(1, heads, sum(lengths), 16, generator=generator) for heads in (4, 2, 2))
        options: dict[str, Any] = {"causal": True, "scaling": 0.3, "sliding_window": 20, "softcap": 1.5}
        found, expected = (
            attend(query, key, value, lengths, **options) for attend in (flexible_attention, packed_attention)
        )
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
