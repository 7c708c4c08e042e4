"""How the rows of a run lie in its batches, as its model allows."""

from __future__ import annotations

from burnish.core.errors import UserError
from burnish.data.batches import Layout, choose_layout
from burnish.models.forward import supports_packing
from burnish.models.load import Loaded, pad_id
from burnish.train.config import RunConfig


def settle_layout(config: RunConfig, loaded: Loaded) -> Layout:
    """The layout of the batches.

    Raises:
        UserError: The recipe asks for packing and the model does not keep packed rows apart.
    """
    packable = loaded.kind != "seq2seq" and supports_packing(loaded.model)
    layout = choose_layout(config.batches, packable)
    if layout == "packed" and not packable:
        raise UserError(
            f"rows of `{loaded.origin['model_type']}` models cannot be packed",
            where="batches.layout",
            fix="use `batches.layout=bucketed`, or leave it to `auto`",
        )
    return layout


def decoder_start(loaded: Loaded) -> int | None:
    """The first token of an encoder-decoder's decoder, None for other models."""
    if loaded.kind != "seq2seq":
        return None
    config = loaded.model.config
    value = getattr(config, "decoder_start_token_id", None)
    value = value if value is not None else getattr(loaded.model.generation_config, "decoder_start_token_id", None)
    return int(value) if value is not None else pad_id(loaded.tokenizer)
