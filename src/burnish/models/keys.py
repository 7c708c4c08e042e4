"""Where a model attends, and with which keys and values: found out by calling it, not by the names of its parts."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedModel

from burnish.core.errors import UserError
from burnish.models.attention import Seen, use_packed_attention
from burnish.models.preamble import backbones
from burnish.models.probe import probing


def keys_of(model: PreTrainedModel, ids: Tensor) -> list[Seen]:
    """Keys and values of every attention module for one row of tokens, in the order of the forward pass.

    An encoder-decoder is given the row on both sides, so its decoder's cross-attention is among them.

    Args:
        model: The model. Its attention goes through Burnish's function afterwards, which gives the same values.
        ids: [n] token ids.

    Returns:
        Every module with keys [K, n, E] and values [K, n, E'].

    Raises:
        UserError: The model does not let its attention be chosen, or hands no arguments on to it.
    """
    name = model.config.model_type
    if not use_packed_attention(model):
        raise UserError(
            f"the attention of `{name}` models cannot be given prefix keys",
            where=type(model).__name__,
            fix="use `adapter.method=prompt` or `lora`, which any model takes; or load the model with "
            "`attn_implementation='sdpa'`",
        )
    seen: list[Seen] = []
    encoder, decoder = backbones(model)
    with probing(model):
        row = ids[None].to(encoder.get_input_embeddings().weight.device)  # type: ignore[operator]
        try:
            states = encoder(input_ids=row, key_witness=seen).last_hidden_state
            if decoder is not None:
                decoder(input_ids=row, encoder_hidden_states=states, use_cache=False, key_witness=seen)
        except TypeError:
            seen = []
    if not seen:
        raise UserError(
            f"`{name}` models hand no arguments on to their attention, so it cannot be given prefix keys",
            where=type(model).__name__,
            fix="use `adapter.method=prompt` or `lora`",
        )
    n = len(ids)
    return [Seen(module, *(_last(t, n) for t in (key, value))) for module, key, value in seen]


def _last(tensor: Tensor, count: int) -> Tensor:
    """[K, n, E] of the row's own tokens: adapters that are on the model may have put others in front."""
    return tensor[0, :, -count:].detach().to(torch.float32)
