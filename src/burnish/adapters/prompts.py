"""What prompt tuning and P-tuning share: learned vectors in front of every row, and what they start from.

Shapes: P virtual tokens, D width of the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from burnish.adapters.base import Adapter, MethodConfig, NotMergeable, Parts, Placed
from burnish.core.errors import UserError
from burnish.models.anatomy import Site
from burnish.models.forward import positions_of
from burnish.models.preamble import backbones, by_name, cut_out, put_in_front, show_encoded_prompts
from burnish.models.route import Joined

COMMON_TOKENS = 5000
"""Vocabularies are sorted by frequency; initial vectors are drawn from the most common tokens (Lester et al., 2021)."""

EMBEDDINGS, CONFIG_FILE, WEIGHTS_FILE = "prompt_embeddings", "adapter_config.json", "adapter_model.safetensors"


class VirtualTokensConfig(MethodConfig):
    """Base of the methods that lengthen every row."""

    num_virtual_tokens: int = Field(20, ge=1)
    """How many virtual tokens P stand in front of every row; rows have as much less room in the model's positions."""


class Prompt(Adapter):
    """P vectors in front of every row at the backbone's input, and their places cut out of its output.

    An encoder's output keeps them, since a decoder reads what became of the prompt (Lester et al., 2021).

    Args:
        count: P.
        keep: Whether the places stay in the output.
    """

    rowwise = True

    def __init__(self, count: int, *, keep: bool = False) -> None:
        super().__init__()
        self.virtual_tokens, self.keep = count, keep

    def vectors(self) -> Tensor:
        """The prompt, [P, D]."""
        raise NotImplementedError

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Put the prompt in front of every row."""
        with torch.autocast(_device_of(self), enabled=False):
            vectors = self.vectors()
        return (), put_in_front(host, by_name(host, args, kwargs), [vectors])

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Cut its places out again."""
        if self.keep:
            return output
        return cut_out(by_name(host, args, kwargs), output, [torch.empty(self.virtual_tokens, 0)])

    @classmethod
    def joined(cls, entries: Sequence[tuple[Any, Sequence[bool]]]) -> RowPrompts:
        """Prompts that differ from row to row."""
        return RowPrompts(entries)

    def check_mergeable(self, host: nn.Module) -> None:
        """Refuse: no weight of the base stands for a prompt."""
        raise lengthens(self.virtual_tokens, "tokens that go through every layer")


class RowPrompts(Joined):
    """Prompts at one backbone, each in front of its own rows; the last of several stands first, as one by one.

    Args:
        entries: Each prompt, and which rows it is for.
    """

    def __init__(self, entries: Sequence[tuple[Any, Sequence[bool]]]) -> None:
        self.entries = list(reversed(entries))
        self.rows = len(entries[0][1])
        self.virtual_tokens = max(self._width(row) for row in range(self.rows))

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Put each row's prompts in front of it."""
        given = by_name(host, args, kwargs)
        with torch.autocast(_device_of(self.entries[0][0]), enabled=False):
            vectors = [prompt.vectors() for prompt, _ in self.entries]
        rows = [
            [v for v, (_, chosen) in zip(vectors, self.entries, strict=True) if chosen[i]] for i in range(self.rows)
        ]
        nothing = vectors[0][:0]
        prompts = [torch.cat(row) if row else nothing for row in rows]
        return (), put_in_front(host, given, prompts + [nothing] * self._fillers(given))

    def after(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """Cut their places out again."""
        if self.entries[0][0].keep:
            return output
        given = by_name(host, args, kwargs)
        widths = [self._width(row) for row in range(self.rows)] + [0] * self._fillers(given)
        return cut_out(given, output, [torch.empty(width, 0) for width in widths])

    def _width(self, row: int) -> int:
        return sum(prompt.virtual_tokens for prompt, chosen in self.entries if chosen[row])

    def _fillers(self, given: Mapping[str, Any]) -> int:
        """How many rows a pack has behind those of the batch."""
        return len(given.get("segment_lengths") or [None] * self.rows) - self.rows


class RowsShown(Joined):
    """At a decoder: its mask over the encoder's states, grown by each row's prompts.

    Args:
        entries: Each prompt as the decoder knows it, and which rows it is for.
    """

    def __init__(self, entries: Sequence[tuple[Any, Sequence[bool]]]) -> None:
        rows = range(len(entries[0][1]))
        self.widths = [sum(shown.count for shown, chosen in entries if chosen[row]) for row in rows]

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Let the decoder see the encoded prompts."""
        prompts = [torch.empty(width, 0) for width in self.widths]
        return (), show_encoded_prompts(by_name(host, args, kwargs), prompts)


class ShownPrompt(Adapter):
    """At a decoder: its mask over the encoder's states, grown by the prompt among them. It has no parameters."""

    rowwise = True

    @classmethod
    def joined(cls, entries: Sequence[tuple[Any, Sequence[bool]]]) -> RowsShown:
        """Prompts that differ from row to row."""
        return RowsShown(entries)

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def before(self, host: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Let the decoder see the encoded prompt."""
        return (), show_encoded_prompts(by_name(host, args, kwargs), [torch.empty(self.count, 0)])


def lengthens(count: int, what: str) -> NotMergeable:
    """The refusal of a method that lengthens rows, with what it costs to use it unmerged."""
    return NotMergeable(
        f"virtual tokens have no closed form in the base's weights: each row carries {count} more {what}, "
        f"{count / (128 + count):.0%} of the work on a row of 128 tokens",
        fix="use the adapter unmerged; the base stays as it is and can be shared",
    )


def parts_of(model: PreTrainedModel, make: Callable[[bool], Prompt]) -> Parts:
    """A prompt at the model's input; ``make`` is told whether its places stay in the output."""
    encoder, decoder = backbones(model)
    names = {id(module): name for name, module in model.named_modules()}
    site = Site(names[id(encoder)], "backbone", encoder, None)
    prompt = make(decoder is not None)
    placed = [Placed(site, prompt)]
    if decoder is not None:
        shown = ShownPrompt(prompt.virtual_tokens)
        placed.append(Placed(Site(names[id(decoder)], "backbone", decoder, None), shown))
    return Parts(placed=tuple(placed), sites=(site,))


def width_of(model: PreTrainedModel) -> int:
    """D, as the embedding gives it."""
    return int(embedded(model, torch.zeros(1, dtype=torch.long)).shape[-1])


@torch.no_grad()
def embedded(model: PreTrainedModel, ids: Tensor) -> Tensor:
    """What the model's embedding makes of token ids, fp32; [n, D]."""
    table = backbones(model)[0].get_input_embeddings()
    return table(ids.to(table.weight.device)).float()


def initial_ids(model: PreTrainedModel, count: int, text_ids: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """[P] tokens to start from: those of a text, repeated or cut to P, or drawn from the most common ones."""
    size = backbones(model)[0].get_input_embeddings().weight.shape[0]
    if text_ids:
        if max(text_ids) >= size:
            raise UserError(
                f"`text_ids` holds {max(text_ids)}, and the model has {size} tokens",
                where="adapter.text_ids",
                fix="leave `text_ids` out; it is made from `text` with the model's own tokenizer",
            )
        return torch.tensor([text_ids[i % len(text_ids)] for i in range(count)])
    return torch.randint(0, min(size, COMMON_TOKENS), (count,), generator=generator)


def resolve_text(config: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The configuration with the tokens of its text, so that a run can be repeated without the tokenizer.

    Raises:
        UserError: The text has no tokens.
    """
    if config.init != "text" or config.text_ids:
        return config
    ids = tokenizer(config.text, add_special_tokens=False, verbose=False)["input_ids"]
    if not ids:
        raise UserError("the text to start from has no tokens", where="adapter.text", fix="write a few words")
    return config.model_copy(update={"text_ids": tuple(ids)})


def refuse_start(config: Any) -> None:
    """Refuse a start that contradicts itself, or whose text was not turned into tokens yet.

    Raises:
        UserError: With what is missing.
    """
    if config.init == "text" and not config.text:
        raise UserError("`init: text` needs a text", where="adapter.text", fix="write it, or use `init: vocabulary`")
    if config.init != "text" and config.text:
        raise UserError(
            f"`text` is given, and `init: {config.init}` does not read it", where="adapter.init", fix="`init: text`"
        )
    if config.init == "text" and not config.text_ids:
        raise UserError(
            "the text is not turned into tokens yet",
            where="adapter.text_ids",
            fix="`config = resolve_text(config, tokenizer)` of `burnish.adapters.prompts`; a run does it by itself",
        )


def refuse_no_room(model: PreTrainedModel, count: int) -> None:
    """Refuse more virtual tokens than the model has positions.

    Raises:
        UserError: They leave none for a row.
    """
    positions = positions_of(model.config)
    if positions is not None and count >= positions:
        raise UserError(
            f"{count} virtual tokens leave no room for a row: the model has {positions} positions",
            where="adapter.num_virtual_tokens",
            fix="use fewer; 20 to 100 are usual",
        )


def read_embeddings(tensors: Mapping[str, Tensor], shape: tuple[int, int]) -> Tensor:
    """`peft`'s prompt, held against the shape that model and configuration ask for.

    Raises:
        UserError: It is missing, or of another shape.
    """
    if EMBEDDINGS not in tensors:
        raise UserError(f"the tensor `{EMBEDDINGS}` is missing", where=WEIGHTS_FILE, fix="save the adapter again")
    found = tensors[EMBEDDINGS]
    if tuple(found.shape) != shape:
        raise UserError(
            f"the adapter belongs to another base: `{EMBEDDINGS}` is {tuple(found.shape)}, this model needs {shape}",
            where=WEIGHTS_FILE,
            fix="load the adapter onto the base that its adapter_config.json names",
        )
    return found.float()


def refuse_unread(values: Mapping[str, Any], tensors: Mapping[str, Tensor], known: set[str]) -> None:
    """Refuse what `peft` says or saves of a prompt and is not read here.

    Raises:
        UserError: With its name.
    """
    strange = sorted(set(tensors) - known)
    if strange:
        fix = "load it with `peft`, or save the adapter again"
        raise UserError(f"unexpected tensor `{strange[0]}`", where=WEIGHTS_FILE, fix=fix)
    if values.get("num_transformer_submodules") not in (None, 1):
        raise UserError(
            "the adapter prompts the decoder too (`num_transformer_submodules: 2`), which Burnish does not read",
            where=CONFIG_FILE,
            fix="train it with `num_transformer_submodules=1`, or use it through `peft`",
        )
    if values.get("modules_to_save"):
        raise UserError(
            f"the adapter holds whole modules (`modules_to_save: {values['modules_to_save']}`)",
            where=CONFIG_FILE,
            fix="load it with `peft`",
        )


def peft_values(prompt: Prompt, width: int) -> dict[str, Any]:
    """What `peft`'s configurations of prompts have in common."""
    return {
        "num_virtual_tokens": prompt.virtual_tokens,
        "token_dim": width,
        "num_transformer_submodules": 1,
        "num_attention_heads": None,
        "num_layers": None,
        "modules_to_save": None,
    }


def _device_of(module: nn.Module) -> str:
    return next(module.parameters()).device.type
