"""Learned vectors in front of every row of a model's input, and their places cut out of its output again.

Shapes: B rows, T tokens, S packed rows (segments), P virtual tokens, D width.

It happens at the edges of the backbone, so whatever calls the model goes the right way: training on any layout,
generation with a cache, logits, a head. Nothing outside ever sees a token that the tokenizer does not know.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput

from burnish.core.errors import UserError
from burnish.models.forward import backbone_of, first_position, positions_of

Prompts = Sequence[Tensor]
"""The vectors of each row, [P, D] each; a single entry serves all rows."""

_PER_POSITION = ("last_hidden_state", "hidden_states")


def backbones(model: PreTrainedModel) -> tuple[nn.Module, nn.Module | None]:
    """The module whose input takes prompts, and the decoder that reads its output, where there is one."""
    if getattr(model.config, "is_encoder_decoder", False):
        return model.get_encoder(), model.get_decoder()
    return backbone_of(model), None


def by_name(host: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call by their names: heads hand some of them over by position."""
    names = inspect.signature(host.forward).parameters
    return {**dict(zip(names, args, strict=False)), **kwargs}


def put_in_front(host: Any, given: Mapping[str, Any], prompts: Prompts) -> dict[str, Any]:
    """The arguments of a call whose rows begin with prompts.

    A pack's segments each get their own, and keep being told apart. Of a padded batch the mask grows; rows with shorter
    prompts are filled in front, unseen. With a cache that holds something already, the prompts are in it.

    Args:
        host: The backbone.
        given: Its arguments by name.
        prompts: One entry for all rows, or one for each row (each segment of a pack).

    Raises:
        UserError: A row has no room for them, or the mask is of a kind that cannot grow.
    """
    width = max(len(p) for p in prompts)
    if _seen(given):
        return _continued(given, prompts)
    mask = given.get("attention_mask")
    vectors = given.get("inputs_embeds")
    vectors = host.get_input_embeddings()(given["input_ids"]) if vectors is None else vectors
    arguments = {name: value for name, value in given.items() if name != "input_ids"}
    prompts = [p.to(vectors) for p in prompts]
    lengths = _segments(given, vectors.shape[:2])
    _refuse_long(host, max(lengths or (vectors.shape[1],)), width)
    if lengths is not None:
        return arguments | _packed(given, vectors, prompts, lengths)
    if mask is not None and mask.dim() != 2:
        raise UserError(
            f"a prompt cannot stand in front of rows whose mask has {mask.dim()} dimensions",
            where=type(host).__name__,
            fix="give a mask [rows, tokens], or none",
        )
    return arguments | _padded(host, given, vectors, prompts)


def cut_out(given: Mapping[str, Any], output: Any, prompts: Prompts) -> Any:
    """The output without the places of the prompts; ``given`` are the arguments that ``put_in_front`` made."""
    vectors = given.get("inputs_embeds")
    # A cache longer than the input means that this was a later step, whose input was left as it was.
    if vectors is None or _seen(given, already=vectors.shape[1]):
        return output
    widths = [len(p) for p in prompts]
    lengths = _segments(given, vectors.shape[:2])
    cut = (lambda t: t[:, max(widths) :]) if lengths is None else (lambda t: _without(t, lengths, widths))
    if not isinstance(output, ModelOutput):
        return (cut(output[0]), *output[1:])
    changed = {name: output[name] for name in _PER_POSITION if output.get(name) is not None}
    for name, value in changed.items():
        output[name] = tuple(cut(v) for v in value) if isinstance(value, tuple) else cut(value)
    return output


def show_encoded_prompts(given: Mapping[str, Any], prompts: Prompts) -> dict[str, Any]:
    """A decoder's arguments with its mask over the encoder's states grown by the prompts among them."""
    mask, states = given.get("encoder_attention_mask"), given.get("encoder_hidden_states")
    if mask is None and states is not None and len({len(p) for p in prompts}) > 1:
        mask = torch.ones(states.shape[0], states.shape[1] - max(len(p) for p in prompts), device=states.device)
    if mask is None or states is None or mask.shape[1] >= states.shape[1]:
        return dict(given)
    return {**given, "encoder_attention_mask": torch.cat([_shown(prompts, mask), mask], dim=1)}


def shifted(host: Any, given: Mapping[str, Any], counts: Sequence[int]) -> dict[str, Any]:
    """The arguments with later positions, where the model takes positions.

    Args:
        host: The backbone.
        given: Its arguments by name.
        counts: How much later: one number for all rows, or one for each row (each segment of a pack).

    Raises:
        UserError: A row has no room for as many.
    """
    if "position_ids" not in inspect.signature(host.forward).parameters:
        return dict(given)
    first = given.get("inputs_embeds") if given.get("input_ids") is None else given["input_ids"]
    assert first is not None
    lengths = _segments(given, first.shape[:2]) if len(counts) > 1 else given.get("segment_lengths")
    positions = given.get("position_ids")
    if positions is None:
        start = _seen(given) + first_position(host.config)
        positions = torch.arange(start, start + first.shape[1], device=first.device)[None]
    if not _seen(given):
        rows = lengths or (first.shape[1],) * len(counts)
        each = counts if len(counts) == len(rows) else [counts[0]] * len(rows)
        _refuse_long(host, *max(zip(rows, each, strict=True), key=sum))
    later = torch.tensor(counts, dtype=positions.dtype, device=positions.device)[:, None]
    if lengths is not None and len(counts) > 1:
        later = later[:, 0].repeat_interleave(torch.tensor(lengths, device=later.device))[None]
    return {**given, "position_ids": positions + later}


def _seen(given: Mapping[str, Any], already: int = 0) -> int:
    """How many tokens the cache of a call holds, beyond ``already``."""
    cache = given.get("past_key_values")
    return max(0, int(cache.get_seq_length()) - already) if cache is not None else 0


def _continued(given: Mapping[str, Any], prompts: Prompts) -> dict[str, Any]:
    """A later step of a generation: the cache begins with the prompts, so mask and positions are told of them."""
    changed = dict(given)
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if mask is not None and mask.dim() == 2:
        changed["attention_mask"] = torch.cat([_shown(prompts, mask), mask], dim=1)
    if positions is not None:
        changed["position_ids"] = positions + _counts(prompts, positions)
    return changed


def _counts(prompts: Prompts, like: Tensor) -> Tensor:
    """[B or 1, 1] lengths of the prompts."""
    return torch.tensor([[len(p)] for p in prompts], dtype=like.dtype, device=like.device)


def _shown(prompts: Prompts, mask: Tensor) -> Tensor:
    """[B, P] mask of the prompts' places: shorter prompts stand right before their rows."""
    width = max(len(p) for p in prompts)
    places = torch.arange(width, device=mask.device)[None]
    shown = places >= width - _counts(prompts, places)
    return shown.to(mask.dtype).expand(mask.shape[0], width)


def _padded(host: Any, given: Mapping[str, Any], vectors: Tensor, prompts: Prompts) -> dict[str, Any]:
    rows, tokens = vectors.shape[:2]
    width = max(len(p) for p in prompts)
    uneven = len({len(p) for p in prompts}) > 1
    front = torch.stack([F.pad(p, (0, 0, width - len(p), 0)) for p in prompts]).expand(rows, width, -1)
    made: dict[str, Any] = {"inputs_embeds": torch.cat([front, vectors], dim=1)}
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if mask is None and uneven:
        mask = torch.ones(rows, tokens, dtype=torch.long, device=vectors.device)
    if mask is not None:
        made["attention_mask"] = torch.cat([_shown(prompts, mask), mask], dim=1)
    takes_positions = "position_ids" in inspect.signature(host.forward).parameters
    first = first_position(host.config)
    if positions is None and uneven and takes_positions:
        positions = torch.arange(first, first + tokens, device=vectors.device)[None]
    if positions is not None:
        start = _first_positions(positions, mask)  # a prefix of keys may have moved it
        own = start + torch.arange(width, device=vectors.device)[None] - width + _counts(prompts, positions)
        later = positions + _counts(prompts, positions)
        count = max(len(own), len(later))
        made["position_ids"] = torch.cat([own.clamp(min=first).expand(count, -1), later.expand(count, -1)], dim=1)
    kinds = given.get("token_type_ids")
    if kinds is not None:
        made["token_type_ids"] = F.pad(kinds, (width, 0))
    return made


def _first_positions(positions: Tensor, mask: Tensor | None) -> Tensor:
    """[B or 1, 1] the position of each row's first token that is no padding."""
    if mask is None:
        return positions[:, :1]
    index = (mask != 0).int().argmax(dim=1, keepdim=True)
    return positions.expand(len(mask), -1).gather(1, index)


def _segments(given: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, ...] | None:
    """Lengths of the rows of a pack, said or to be seen where positions begin anew; None for any other batch."""
    lengths, positions = given.get("segment_lengths"), given.get("position_ids")
    if lengths is not None:
        return tuple(lengths)
    if positions is None or given.get("attention_mask") is not None or shape[0] != 1:
        return None
    resets = (positions[0, 1:] <= positions[0, :-1]).nonzero().flatten() + 1
    bounds = [0, *resets.tolist(), shape[1]]
    return tuple(end - start for start, end in pairwise(bounds))


def _packed(given: Mapping[str, Any], vectors: Tensor, prompts: Prompts, lengths: tuple[int, ...]) -> dict[str, Any]:
    each = prompts if len(prompts) == len(lengths) else [prompts[0]] * len(lengths)
    rows = vectors[0].split(list(lengths))
    made: dict[str, Any] = {
        "inputs_embeds": torch.cat([part for pair in zip(each, rows, strict=True) for part in pair])[None]
    }
    if "segment_lengths" in given:
        made["segment_lengths"] = tuple(n + len(p) for n, p in zip(lengths, each, strict=True))
    positions = given.get("position_ids")
    if positions is not None:
        parts = [torch.cat([row[0] + _range(p, row), row + len(p)]) for p, row in _with(each, positions, lengths)]
        made["position_ids"] = torch.cat(parts)[None]
    kinds = given.get("token_type_ids")
    if kinds is not None:
        made["token_type_ids"] = torch.cat([F.pad(row, (len(p), 0)) for p, row in _with(each, kinds, lengths)])[None]
    return made


def _with(each: Prompts, tensor: Tensor, lengths: tuple[int, ...]) -> list[tuple[Tensor, Tensor]]:
    return list(zip(each, tensor[0].split(list(lengths)), strict=True))


def _range(prompt: Tensor, like: Tensor) -> Tensor:
    return torch.arange(len(prompt), dtype=like.dtype, device=like.device)


def _without(tensor: Tensor, lengths: tuple[int, ...], widths: list[int]) -> Tensor:
    """A pack's tensor [1, T, ...] without the first places of every segment."""
    # Prompts of several methods that are cut one after the other: those before have shortened all segments alike.
    gone = (sum(lengths) - tensor.shape[1]) // len(lengths)
    each = widths if len(widths) == len(lengths) else widths * len(lengths)
    rows = tensor[0].split([n - gone for n in lengths])
    return torch.cat([row[width:] for row, width in zip(rows, each, strict=True)])[None]


def _refuse_long(host: Any, longest: int, width: int) -> None:
    positions = positions_of(host.config)
    if positions is not None and longest + width > positions:
        raise UserError(
            f"a row of {longest} tokens and {width} virtual ones does not fit: the model has {positions} positions",
            where=type(host).__name__,
            fix=f"set `data.render.max_length={positions - width}` or less, or fewer `adapter.num_virtual_tokens`",
        )
