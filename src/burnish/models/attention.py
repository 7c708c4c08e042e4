"""One attention function for every model that routes through `transformers`' attention interface.

It is registered under our own name and chosen per model instance: nothing of the library is replaced. Given the keyword
``segment_lengths`` it attends within the rows of a pack; without it, it is the library's own SDPA with SDPA's masks, so
generation, padded batches, cross-attention and position biases stay as they were.
"""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from burnish.core.errors import UserError
from burnish.ops.attention import capped_attention, packed_attention

NAME = "burnish"

# Arguments that change what a token sees, and that a pack has no meaning for.
_REFUSED_IN_PACKS = ("position_bias", "s_aux", "past_key_values", "cache")


def burnish_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segment_lengths: tuple[int, ...] | None = None,
    segment_witness: list[int | None] | None = None,
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
        **kwargs: ``dropout``, ``scaling``, ``is_causal``, ``sliding_window``, ``softcap`` and whatever a model adds.

    Returns:
        Output [B, T, H, E'], and no weights.

    Raises:
        UserError: A pack meets a mechanism that cannot be packed.
    """
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
    output = packed_attention(
        query,
        key,
        value,
        segment_lengths,
        causal=getattr(module, "is_causal", True) if causal is None else causal,
        scaling=kwargs.get("scaling"),
        dropout=kwargs.get("dropout", 0.0),
        sliding_window=kwargs.get("sliding_window"),
        softcap=kwargs.get("softcap"),
    )
    return output, None


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
