"""One attention function for every model that routes through `transformers`' attention interface.

It is registered under our own name and chosen per model instance: nothing of the library is replaced. Given the keyword
``segment_lengths`` it attends within the rows of a pack; without it, it is the library's own SDPA with SDPA's masks, so
generation, padded batches, cross-attention and position biases stay as they were. Given ``prefix_key`` and
``prefix_value`` every row begins with these, outside of any cache.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from burnish.core.errors import UserError
from burnish.ops.attention import capped_attention, packed_attention
from burnish.ops.prefix_attention import Chosen, packed_prefix_attention, row_prefixes, shown_by_row, shown_prefix

NAME = "burnish"

# Arguments that change what a token sees, and that a pack has no meaning for.
_REFUSED_IN_PACKS = ("position_bias", "s_aux", "past_key_values", "cache")


class Seen(NamedTuple):
    """What an attention module was called with: its keys [B, K, S, E] and values [B, K, S, E']."""

    module: nn.Module
    key: Tensor
    value: Tensor


def burnish_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: tuple[int, ...] | None = None,
    segment_witness: list[int | None] | None = None,
    prefix_key: Tensor | None = None,
    prefix_value: Tensor | None = None,
    prefix_chosen: Chosen | None = None,
    key_witness: list[Seen] | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Attention in the signature of `transformers`: query [B, H, T, E], key and value [B, K, S, E].

    Args:
        module: The attention module of the model; its ``is_causal`` holds unless the call says otherwise.
        query: Queries.
        key: Keys.
        value: Values.
        attention_mask: What the model made; not read in a pack.
        segment_lengths: Lengths of the packed rows, B = 1; None for any other batch.
        segment_witness: Receives the sliding window of every packed call, for the probe.
        prefix_key: Keys that every query sees, [P, K, E].
        prefix_value: Their values.
        prefix_chosen: Which of them the queries of each row see; None for all.
        key_witness: Receives the keys and values of every call, to learn where there are which.
        **kwargs: ``dropout``, ``scaling``, ``is_causal``, ``sliding_window``, ``softcap`` and whatever a model adds.

    Returns:
        Output [B, T, H, E'], and no weights.

    Raises:
        UserError: A pack meets a mechanism that cannot be packed.
    """
    if key_witness is not None:
        key_witness.append(Seen(module, key, value))
    if segment_lengths is None and prefix_key is not None and prefix_value is not None:
        prefix = (prefix_key, prefix_value, prefix_chosen)
        return _with_prefix(module, query, key, value, attention_mask, prefix, **kwargs)
    if segment_lengths is None:
        return _unpacked(module, query, key, value, attention_mask, **kwargs)
    refused = [name for name in _REFUSED_IN_PACKS if kwargs.get(name) is not None]
    if refused:
        raise UserError(
            f"this model's attention uses `{refused[0]}`, which packed rows cannot share",
            where=type(module).__name__,
            fix="choose another batch layout: `batches.layout=bucketed`",
        )
    if segment_witness is not None:
        segment_witness.append(kwargs.get("sliding_window"))
    causal = kwargs.get("is_causal")
    options: dict[str, Any] = {
        "causal": getattr(module, "is_causal", True) if causal is None else causal,
        "scaling": kwargs.get("scaling"),
        "dropout": kwargs.get("dropout", 0.0),
        "sliding_window": kwargs.get("sliding_window"),
        "softcap": kwargs.get("softcap"),
    }
    if prefix_key is not None and prefix_value is not None:
        parts = (query, key, value, prefix_key, prefix_value)
        return packed_prefix_attention(*parts, segment_lengths, chosen=prefix_chosen, **options), None
    return packed_attention(query, key, value, segment_lengths, **options), None


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Route this model's attention through ours, where that leaves its results as they are.

    A model qualifies if it would run on SDPA, or differs from it by capped scores only (Gemma 2), and if its code does
    not ask for the implementation by name. Others keep what they have.

    Returns:
        Whether the model uses our function now.
    """
    config = model.config
    current = getattr(config, "_attn_implementation", None)
    if current == NAME:
        return True
    capped = current == "eager" and getattr(config, "attn_logit_softcapping", None) is not None
    if not (current == "sdpa" or capped) or not _routes_through_interface(type(model)):
        return False
    model.set_attn_implementation(NAME)
    return getattr(config, "_attn_implementation", None) == NAME


def _with_prefix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    prefix: tuple[Tensor, Tensor, Chosen | None],
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Padded rows and generation: the prefix stands before the keys, every query sees it, no position bias is on it."""
    chosen = prefix[2]
    length, causal = query.shape[2], kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    whole = attention_mask is None and causal and length > 1
    if whole:  # what plain causality hides lies behind the queries; a cache of fixed size has room there
        key, value = key[:, :, :length], value[:, :, :length]
    if chosen is not None and attention_mask is None:  # rows of prefixes that differ need a mask
        seen = torch.ones(1, 1, length, key.shape[2], dtype=torch.bool, device=query.device)
        attention_mask, whole = seen.tril() if whole else seen, False
    count = -key.shape[2]
    key, value = row_prefixes(key, value, *prefix)
    count += key.shape[2]
    if chosen is None or attention_mask is None:
        attention_mask = shown_prefix(attention_mask, count)
    else:
        attention_mask = shown_by_row(attention_mask, chosen)
    bias = kwargs.pop("position_bias", None)
    if bias is not None:
        # a bias is a mask that wants a gradient; added up here, whatever made it has its own way of crops and repeats
        attention_mask = _added(shown_prefix(bias[..., : key.shape[2] - count], count), attention_mask, length, whole)
    elif whole:
        # P queries of no meaning before the others make it a square, which the kernels know as plain causality
        query = torch.nn.functional.pad(query, (0, 0, count, 0))
    output, _ = _unpacked(module, query, key, value, attention_mask, **kwargs)
    return output[:, -length:], None


def _added(bias: Tensor | None, mask: Tensor | None, length: int, causal: bool) -> Tensor:
    """A position bias [1, H, T, S] with a mask, or with plain causality over its last T columns."""
    assert bias is not None
    if causal:
        mask = torch.ones(bias.shape[-2:], dtype=torch.bool, device=bias.device).tril(bias.shape[-1] - length)
    if mask is None:
        return bias
    if mask.dtype != torch.bool:
        return bias + mask
    return torch.where(mask, bias, torch.finfo(bias.dtype).min)


def _unpacked(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    softcap = kwargs.get("softcap")
    if softcap is None:
        return AttentionInterface()["sdpa"](module, query, key, value, attention_mask, **kwargs)
    length, seen = query.shape[2], key.shape[2]
    causal = kwargs.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    if attention_mask is None and causal and length > 1:
        # SDPA's masks are left out where plain causality says it all; queries and keys then start together.
        key, value, seen = key[:, :, :length], value[:, :, :length], min(seen, length)
        attention_mask = torch.ones(length, seen, dtype=torch.bool, device=query.device).tril()
    output = capped_attention(
        query,
        key,
        value,
        attention_mask,
        softcap=softcap,
        scaling=kwargs.get("scaling"),
        dropout=kwargs.get("dropout", 0.0),
    )
    return output.transpose(1, 2).contiguous(), None


def _routes_through_interface(cls: type) -> bool:
    """Whether a model's source looks its attention function up, and nowhere does something for SDPA by name only."""
    module = sys.modules.get(cls.__module__)
    try:
        source = inspect.getsource(module) if module else ""
    except (OSError, TypeError):
        return False
    by_name = re.search(r"_attn_implementation\s*(==|!=|in|not in)\s[^\n:]*[\"']sdpa", source)
    return "ALL_ATTENTION_FUNCTIONS" in source and by_name is None


AttentionInterface.register(NAME, burnish_attention)
AttentionMaskInterface.register(NAME, AttentionMaskInterface()["sdpa"])
