"""Attention over packed rows on a GPU: one call for all rows of a pack, in the kernels that PyTorch brings.

Half precision goes to flash attention for rows of different lengths (`torch.nn.attention.varlen`); capped scores, which
it lacks, to flex attention, whose kernel is compiled from the cap and the mask. Everything else is attended row by row
(`burnish.ops.attention`), which is also the twin that the tests hold both against.

Shapes: T tokens of the pack, H query heads, K key and value heads, E head width, b blocks of tokens.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from burnish.ops.kernels import has_triton

HALF = (torch.float16, torch.bfloat16)

WIDE = {(8, 0), (9, 0), (10, 0)}
"""Compute capabilities with the shared memory that flash attention's backward pass needs for heads above 192."""

BLOCK = 128
"""Tokens of a block of flex attention's mask; its kernel's own default."""


class Pack(NamedTuple):
    """What the choice of a kernel depends on.

    Attributes:
        device: Kind of the device.
        capability: Compute capability of the GPU, (0, 0) elsewhere.
        dtype: Format of the queries.
        width: Head width E of queries and keys.
        value_width: Head width of the values.
        dropout: Probability with which an attention weight is dropped.
        softcap: Cap of the scores.
    """

    device: str
    capability: tuple[int, int]
    dtype: torch.dtype
    width: int
    value_width: int
    dropout: float
    softcap: float | None


def takes_varlen(pack: Pack) -> bool:
    """Whether flash attention for rows of different lengths does this pack."""
    widest = 256 if pack.capability in WIDE else 192
    usual = pack.device == "cuda" and pack.capability >= (8, 0) and pack.dtype in HALF
    return usual and _plain(pack) and pack.softcap is None and pack.width % 8 == 0 and pack.width <= widest


def takes_flex(pack: Pack) -> bool:
    """Whether a compiled flex attention does this pack; it costs a compilation, so only where flash attention can't."""
    usual = pack.device == "cuda" and pack.capability >= (8, 0) and pack.dtype in HALF and has_triton()
    return usual and _plain(pack) and pack.softcap is not None and 16 <= pack.width <= 256


def _plain(pack: Pack) -> bool:
    return not pack.dropout and pack.width == pack.value_width


def gpu_attention(
    query_BHTE: Tensor, value_BKTE: Tensor, *, dropout: float, softcap: float | None
) -> Callable[..., Tensor] | None:
    """The kernel for a pack of this kind, or None where it is attended row by row."""
    device = query_BHTE.device
    if device.type != "cuda":
        return None
    capability = torch.cuda.get_device_capability(device)
    width, value_width = query_BHTE.shape[-1], value_BKTE.shape[-1]
    return choose(Pack(device.type, capability, query_BHTE.dtype, width, value_width, dropout, softcap))


def choose(pack: Pack) -> Callable[..., Tensor] | None:
    """The first kernel of ``PATHS`` that does this pack."""
    return next((attend for takes, attend in PATHS if takes(pack)), None)


def varlen_attention(
    query_BHTE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    lengths: Sequence[int],
    *,
    causal: bool,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Flash attention over rows that lie behind each other (Dao, 2023); arguments as in ``packed_attention``.

    The kernel wants [T, H, E] and the rows' ends as int32. It counts a window by its neighbours: a token that sees
    those less than w positions away has w - 1 of them on each side.
    """
    if softcap is not None:
        raise ValueError("flash attention caps no scores")
    longest = max(lengths)
    options: dict[str, Any] = {"scale": scaling, "window_size": window_of(longest, causal, sliding_window)}
    if key_BKTE.shape[1] != query_BHTE.shape[1]:
        if _groups_in_kernel():
            options["enable_gqa"] = True
        else:
            repeats = query_BHTE.shape[1] // key_BKTE.shape[1]
            key_BKTE, value_BKTE = (t.repeat_interleave(repeats, dim=1) for t in (key_BKTE, value_BKTE))
    query, key, value = (t[0].transpose(0, 1) for t in (query_BHTE, key_BKTE, value_BKTE))
    ends = row_ends(tuple(lengths), query.device)
    return _varlen()(query, key, value, ends, ends, longest, longest, **options)[None]


def window_of(longest: int, causal: bool, sliding_window: int | None) -> tuple[int, int]:
    """How many tokens before and behind its own a token sees; -1 for all. A window that no row reaches is left out."""
    if sliding_window is None or sliding_window >= longest:
        return (-1, 0) if causal else (-1, -1)
    return (sliding_window - 1, 0 if causal else sliding_window - 1)


@lru_cache(maxsize=4)  # all layers of a forward and a backward pass ask for the same ends
def row_ends(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """0 and the end of every row, int32."""
    return torch.tensor([0, *lengths]).cumsum(0).to(device, torch.int32)


@lru_cache(maxsize=1)
def _groups_in_kernel() -> bool:
    """Whether this PyTorch says that its kernel takes fewer key heads than query heads (2.11 does not say so yet)."""
    return "enable_gqa" in inspect.signature(_varlen()).parameters


def flexible_attention(
    query_BHTE: Tensor,
    key_BKTE: Tensor,
    value_BKTE: Tensor,
    lengths: Sequence[int],
    *,
    causal: bool,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
) -> Tensor:
    """Flex attention (Dong et al., 2024) with the pack's mask and the scores' cap; as in ``packed_attention``."""

    def capped(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return softcap * torch.tanh(score / softcap)

    output = _flex()(
        query_BHTE,
        key_BKTE,
        value_BKTE,
        score_mod=capped if softcap is not None else None,
        block_mask=pack_mask(tuple(lengths), causal, sliding_window, query_BHTE.device),
        scale=scaling,
        enable_gqa=key_BKTE.shape[1] != query_BHTE.shape[1],
    )
    return output.transpose(1, 2)


def _varlen() -> Callable[..., Tensor]:
    """PyTorch's flash attention, imported when it is first needed: it imports Triton, which takes its time."""
    return importlib.import_module("torch.nn.attention.varlen").varlen_attn  # type: ignore[no-any-return]


def _flex_room() -> Any:
    """PyTorch's flex attention, imported when it is first needed as well."""
    return importlib.import_module("torch.nn.attention.flex_attention")


@lru_cache(maxsize=1)
def _flex() -> Callable[..., Tensor]:
    """Compiled, because flex attention makes all scores otherwise.

    PyTorch compiles once more for any length when it meets a second one. Asked to do so at once, it takes the cap for a
    variable as well, which its own lowering of flex attention then refuses.
    """
    return torch.compile(_flex_room().flex_attention)  # type: ignore[no-any-return]


@lru_cache(maxsize=4)
def pack_mask(lengths: tuple[int, ...], causal: bool, window: int | None, device: torch.device) -> Any:
    """Which blocks of keys a block of queries looks at, [1, 1, b, b], and which keys in them.

    It is made from the rows' bounds: PyTorch's own function would make a mask of [T, T] first.
    """
    total = sum(lengths)
    rows = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    first = torch.arange(0, total, BLOCK)
    last = (first + BLOCK).clamp(max=total) - 1
    seen = (rows[first][:, None] <= rows[last][None]) & (rows[last][:, None] >= rows[first][None])
    if causal:
        seen &= first[None] <= last[:, None]
    if window is not None:
        seen &= (first[:, None] - last[None] < window) & (first[None] - last[:, None] < window)
    order = seen.to(torch.int8).argsort(dim=1, descending=True, stable=True).to(torch.int32)
    counts = seen.sum(dim=1, dtype=torch.int32)
    rows = rows.to(device)

    def visible(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        together = rows[query] == rows[key]
        if causal:
            together = together & (key <= query)
        return together & ((query - key).abs() < window) if window is not None else together

    return _flex_room().BlockMask.from_kv_blocks(
        counts[None, None].to(device),
        order[None, None].to(device),
        BLOCK_SIZE=BLOCK,
        mask_mod=visible,
        seq_lengths=(total, total),
    )


PATHS: tuple[tuple[Callable[[Pack], bool], Callable[..., Tensor]], ...] = (
    (takes_varlen, varlen_attention),
    (takes_flex, flexible_attention),
)
"""Kernels for packs in order of preference, each with the question whether it does a pack."""
