"""Run a model's backbone over a batch of any layout, and reach its head. Shapes: B batch, T tokens, D width."""

from __future__ import annotations

import inspect
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.attention import use_packed_attention
from burnish.models.probe import probe_ids, probing, tolerance
from burnish.models.route import require_task, routed

PackingMode = Literal["segments", "mask"]

# These count positions from `pad_token_id + 1`.
_OFFSET_POSITIONS = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "roberta-prelayernorm", "mpnet"}
)

_PROBE_LENGTHS = (7, 5, 6)

_PER_TOKEN = ("input_ids", "position_ids", "token_type_ids")

PACK_MULTIPLE = {"cpu": 32}
"""Packs are filled up to a multiple of this. A processor's products are prepared for every number of rows anew, which
takes a millisecond for each of the forty of a step; with few different numbers they are found prepared."""


def positions_of(config: Any) -> int | None:
    """The longest row that a model has positions for, from its configuration; None where that does not say."""
    count = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(count, int) or count < 2:
        return None
    return count - first_position(config)


def first_position(config: Any) -> int:
    """The position of a row's first token: 0, but for models that count from their padding id."""
    return config.pad_token_id + 1 if config.model_type in _OFFSET_POSITIONS else 0


def hidden_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Hidden states before the head, after the final norm, without ever making logits.

    Args:
        model: A causal, encoder-only or encoder-decoder model.
        batch: A packed batch (``segment_lengths`` present), a padded one, or one for an encoder-decoder
            (``decoder_input_ids`` present).

    Returns:
        [B, T, D]; [B, U, D] of the decoder for an encoder-decoder.

    Raises:
        UserError: A packed batch for a model that cannot be packed, or rows without a task where parts are for tasks.
    """
    require_task(model, batch)
    if "decoder_input_ids" in batch:
        return _decoder_states(model, batch)
    if "segment_lengths" in batch:
        mode = packing_mode(model)
        if mode is None:
            raise UserError(
                f"rows cannot be packed for `{model.config.model_type}` models",
                where=type(model).__name__,
                fix="choose another batch layout: `batches.layout=bucketed`",
            )
        return _run(model, batch, mode)
    return _run(model, batch, None)


def supports_packing(model: PreTrainedModel) -> bool:
    """Whether a packed row gets the hidden states that it gets alone; found out by a probe, once per model."""
    return packing_mode(model) is not None


def packing_mode(model: PreTrainedModel) -> PackingMode | None:
    """How this model takes packs.

    ``segments``: its attention is ours and attends row by row. ``mask``: it builds a block-diagonal [T, T] mask from
    the position ids by itself. None: neither gives a packed row what it gets alone. The answer is kept on the instance.
    """
    known = model.__dict__.get("_burnish_packing", ...)
    if known is ...:
        known = _probe_packing(model)
        model.__dict__["_burnish_packing"] = known
    return known


def assume_packing(model: PreTrainedModel) -> PackingMode | None:
    """What ``packing_mode`` will be, from the model's code alone: shapes without numbers cannot be probed."""
    named = inspect.signature(backbone_of(model).forward).parameters
    packs = not getattr(model.config, "is_encoder_decoder", False) and "position_ids" in named
    mode: PackingMode | None = "segments" if use_packed_attention(model) and packs else None
    model.__dict__["_burnish_packing"] = mode
    return mode


def is_causal(model: PreTrainedModel) -> bool:
    """Whether no token sees a later one: changing the last token leaves the states before it as they were."""
    ids = probe_ids(model, 8)
    changed = ids.clone()
    changed[0, -1] = ids[0, 0] if ids[0, 0] != ids[0, -1] else ids[0, 1]
    with probing(model):
        first, second = (_run(model, {"input_ids": x}, None)[:, :-1].double() for x in (ids, changed))
    return bool((first - second).abs().max() <= tolerance(first, model))


def _run(model: PreTrainedModel, batch: Batch, mode: PackingMode | None, **extra: Any) -> Tensor:
    backbone = backbone_of(model)
    named = inspect.signature(backbone.forward).parameters
    arguments: dict[str, Any] = {"input_ids": batch["input_ids"], **extra}
    if "position_ids" in batch and "position_ids" in named:
        arguments["position_ids"] = batch["position_ids"] + first_position(model.config)
    if "token_type_ids" in batch and "token_type_ids" in named:
        arguments["token_type_ids"] = batch["token_type_ids"]
    if "use_cache" in named:
        arguments["use_cache"] = False
    length = batch["input_ids"].shape[1]
    if mode == "segments":
        multiple = PACK_MULTIPLE.get(batch["input_ids"].device.type, 1)
        arguments |= _filled(arguments, batch["segment_lengths"], multiple, _extra_tokens(backbone))
        # Every mask builder of the library hands a 4-D mask through as it is; ours does not read it.
        arguments["attention_mask"] = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=batch["input_ids"].device)
    elif mode is None and "attention_mask" in batch:
        arguments["attention_mask"] = batch["attention_mask"]
    with routed(
        model, batch, arguments.get("segment_lengths", batch.get("segment_lengths")), batch["input_ids"].device
    ):
        return backbone(**arguments).last_hidden_state[:, :length]


def _filled(arguments: dict[str, Any], lengths: tuple[int, ...], multiple: int, extra: int) -> dict[str, Any]:
    """The pack with a row of filling tokens behind it, which sees itself only and is cut off again afterwards.

    Every row, the filling one too, will have ``extra`` virtual tokens before it.
    """
    total = sum(lengths) + extra * len(lengths)
    if not total % multiple:
        return {"segment_lengths": lengths}
    missing = -(total + extra) % multiple or multiple
    filled = {n: torch.nn.functional.pad(arguments[n], (0, missing)) for n in _PER_TOKEN if n in arguments}
    return {**filled, "segment_lengths": (*lengths, missing)}


def _extra_tokens(backbone: nn.Module) -> int:
    """How many virtual tokens will stand in front of every row; whatever puts them there hangs on the backbone."""
    return sum(getattr(child, "virtual_tokens", 0) for child in backbone.children())


def _decoder_states(model: PreTrainedModel, batch: Batch) -> Tensor:
    mask = batch.get("attention_mask")
    with routed(model, batch, None, batch["input_ids"].device):
        encoded = model.get_encoder()(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
        return model.get_decoder()(
            input_ids=batch["decoder_input_ids"],
            attention_mask=batch.get("decoder_attention_mask"),
            encoder_hidden_states=encoded,
            encoder_attention_mask=mask,
            use_cache=False,
        ).last_hidden_state


def backbone_of(model: PreTrainedModel) -> nn.Module:
    """The model without its head."""
    if model.base_model is not model:
        return model.base_model
    # Some classes name a prefix that they do not have; their backbone is `model` by the library's convention.
    return getattr(model, "model", model)


def _probe_packing(model: PreTrainedModel) -> PackingMode | None:
    """Pack three short random rows and hold each against the row alone."""
    if getattr(model.config, "is_encoder_decoder", False):
        return None
    if "position_ids" not in inspect.signature(backbone_of(model).forward).parameters:
        return None
    modes: tuple[PackingMode, ...] = ("segments", "mask") if use_packed_attention(model) else ("mask",)
    ids = probe_ids(model, sum(_PROBE_LENGTHS))
    positions = torch.cat([torch.arange(n) for n in _PROBE_LENGTHS])[None].to(ids.device)
    batch: Batch = {"input_ids": ids, "position_ids": positions, "segment_lengths": _PROBE_LENGTHS}
    with probing(model):
        rows = [_run(model, {"input_ids": part}, None) for part in ids.split(list(_PROBE_LENGTHS), dim=1)]
        alone = torch.cat(rows, dim=1).double()
        mixed = _run(model, {"input_ids": ids}, None).double()
        for mode in modes:
            if _packs(model, batch, mode, alone, mixed):
                return mode
    return None


def _packs(model: PreTrainedModel, batch: Batch, mode: PackingMode, alone: Tensor, mixed: Tensor) -> bool:
    witness: list[int | None] = []
    extra = {"segment_witness": witness} if mode == "segments" else {}
    try:
        packed = _run(model, batch, mode, **extra).double()
    except (UserError, TypeError, ValueError, RuntimeError, AttributeError, LookupError):  # cannot take them at all
        return False
    if mode == "segments" and not _windows_arrive(model, witness):
        return False
    error = (packed - alone).abs().max()
    # The same ids as one row show how large the error is if rows do see each other; NaN fails both comparisons.
    leak = (mixed - alone).abs().max()
    return bool(error <= tolerance(alone, model)) and bool(error <= 0.2 * leak)


def _windows_arrive(model: PreTrainedModel, witness: list[int | None]) -> bool:
    """Whether our attention was reached, and was told every window that the configuration declares.

    The rows of the probe are shorter than a window, so that their values alone would not show a missing one.
    """
    config = model.config
    kinds = getattr(config, "layer_types", None)
    if not witness:
        return False
    if kinds is None:
        return getattr(config, "sliding_window", None) is None or None not in witness
    if len(witness) != len(kinds) or not set(kinds) <= {"full_attention", "sliding_attention"}:
        return False
    return all(
        (window is not None) == (kind == "sliding_attention") for window, kind in zip(witness, kinds, strict=True)
    )
