"""Generate text from token ids: in batches for evaluation, as a stream for chat."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    TextIteratorStreamer,
)

from burnish.core.config import Config
from burnish.core.errors import UserError
from burnish.models.load import Loaded, pad_id
from burnish.models.quiet import quiet


class GenerateConfig(Config):
    """How text is generated."""

    max_new_tokens: int = Field(64, ge=1)
    """Tokens after which a generation is cut."""
    min_new_tokens: int = Field(0, ge=0)
    """Tokens before which no generation ends by an end token."""
    temperature: float = Field(0.0, ge=0.0)
    """0 takes the likeliest token every time; larger values sample more freely."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Sample from the smallest set of tokens whose probabilities add up to this."""
    top_k: int = Field(0, ge=0)
    """Sample from this many likeliest tokens; 0 takes all."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """Above 1, tokens that have occurred become less likely."""
    no_repeat_ngram_size: int = Field(0, ge=0)
    """No sequence of so many tokens occurs twice, those of the prompt included; 0 allows all."""
    stop: tuple[str, ...] = ()
    """Texts at which a generation ends; they are cut off."""
    seed: int = 0
    """Seed of the sampling."""

    @model_validator(mode="after")
    def _sensible(self) -> GenerateConfig:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} is more than max_new_tokens={self.max_new_tokens}")
        if "" in self.stop:
            raise ValueError("an empty stop text would end every generation at once")
        return self


@dataclass(frozen=True)
class Generation:
    """One generated text.

    Attributes:
        text: The text, without special tokens, cut at a stop text.
        token_ids: The generated ids, without padding, with the token that ended them.
        stopped: Whether it ended by itself (an end token or a stop text) and not at ``max_new_tokens``.
        seconds: Its share of the time of its batch.
    """

    text: str
    token_ids: tuple[int, ...]
    stopped: bool
    seconds: float


def generate(
    loaded: Loaded, prompts: Sequence[Sequence[int]], config: GenerateConfig, batch_tokens: int = 2048
) -> list[Generation]:
    """Continue every prompt; for an encoder-decoder, answer it.

    Prompts of similar length share a batch, left-padded, of at most ``batch_tokens`` places (prompt and answer
    together). A generation ends at the model's end tokens, at the end of a chat turn, or at a stop text. The model's
    mode and the global random state are as before afterwards.

    Args:
        loaded: The model and its tokenizer.
        prompts: Token ids, none of them empty.
        config: How to generate.
        batch_tokens: Size of a batch; a longer prompt stands alone.

    Returns:
        One generation per prompt, in their order.

    Raises:
        ValueError: A prompt is empty.
    """
    refuse_classifier(loaded)
    if any(not len(prompt) for prompt in prompts):
        raise ValueError("a prompt without tokens cannot be continued")
    results: list[Generation | None] = [None] * len(prompts)
    ends = end_ids(loaded)
    with _ready(loaded, config.seed):
        for rows in _batches([len(p) for p in prompts], config.max_new_tokens, batch_tokens):
            started = time.perf_counter()
            ids, mask = _left_pad([prompts[i] for i in rows], pad_id(loaded.tokenizer), loaded.model.device)
            with quiet():
                output = _generator(loaded)(
                    input_ids=ids, attention_mask=mask, **_arguments(loaded, config, ends), **_stops(loaded, config)
                )
            seconds = (time.perf_counter() - started) / len(rows)
            skip = 1 if loaded.kind == "seq2seq" else ids.shape[1]
            for row, new in zip(rows, output[:, skip:].tolist(), strict=True):
                results[row] = _generation(loaded.tokenizer, new, ends, config, seconds)
    return [result for result in results if result is not None]


def refuse_classifier(loaded: Loaded) -> None:
    """Refuse to let a model write that has learnt to classify.

    Raises:
        UserError: It has a classification head.
    """
    if loaded.classifier is not None:
        shown = ", ".join(loaded.classifier.labels[:6])
        learnt = "trained to classify" if loaded.classifier.task == "classification" else "trained for another task"
        raise UserError(
            f"this model was {learnt} ({shown}), and writes no text",
            where=loaded.path,
            fix="answer texts with `burnish classify`, or score rows with `burnish evaluate`",
        )


def stream(loaded: Loaded, ids: Sequence[int], config: GenerateConfig) -> Iterator[str]:
    """Continue one prompt and yield the text as it comes; a stop text is not among it.

    An abandoned iterator ends the generation at its next token. An error of the model is raised here.
    """
    refuse_classifier(loaded)
    streamer = TextIteratorStreamer(loaded.tokenizer, skip_prompt=loaded.kind == "causal", skip_special_tokens=True)
    cancelled = threading.Event()
    errors: list[BaseException] = []
    inputs = torch.tensor([list(ids)], device=loaded.model.device)

    def work() -> None:
        try:
            with _ready(loaded, config.seed), quiet():
                _generator(loaded)(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([_Cancelled(cancelled)]),
                    **_arguments(loaded, config, end_ids(loaded)),
                    **_stops(loaded, config),
                )
        except BaseException as error:  # handed to the reader, who would wait for ever otherwise
            errors.append(error)
        finally:
            streamer.end()

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        yield from _until_stop(streamer, config.stop)
    finally:
        cancelled.set()
        worker.join()
    if errors:
        raise errors[0]


def end_ids(loaded: Loaded) -> list[int]:
    """The ids that end a generation: the tokenizer's and the model's end tokens, and the end of a chat turn."""
    declared = getattr(loaded.model.generation_config, "eos_token_id", None)
    found: list[Any] = [loaded.tokenizer.eos_token_id, turn_end_id(loaded.tokenizer)]
    found += declared if isinstance(declared, (list, tuple)) else [declared]
    return sorted({token for token in found if isinstance(token, int)})


def turn_end_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template writes right after an assistant's turn, or None."""
    if not tokenizer.chat_template:
        return None
    answer = "Burnish"
    messages = [{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}]
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False)
    except Exception:  # a template may refuse any conversation, in its own words
        return None
    after = str(text).rpartition(answer)[2].lstrip()
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    return ids[0] if ids and ids[0] in tokenizer.all_special_ids + list(tokenizer.added_tokens_decoder) else None


class _Cancelled(StoppingCriteria):
    def __init__(self, event: threading.Event) -> None:
        self._event = event

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((input_ids.shape[0],), self._event.is_set(), device=input_ids.device)


@contextmanager
def _ready(loaded: Loaded, seed: int) -> Iterator[None]:
    """Evaluation mode, no gradients, and a random state of our own: the library samples from the global one."""
    modes = [(module, module.training) for module in loaded.model.modules()]
    device = loaded.model.device
    devices = [device] if device.type == "cuda" else []
    loaded.model.eval()
    own = loaded.model.generation_config
    stored_stops, own.stop_strings = getattr(own, "stop_strings", None), None  # else they would join those asked for
    head = loaded.model.get_output_embeddings()
    try:
        with (
            torch.random.fork_rng(devices=devices),
            torch.no_grad(),
            head.register_forward_pre_hook(_together) if head is not None else nullcontext(),
        ):
            torch.manual_seed(seed)
            yield
    finally:
        own.stop_strings = stored_stops
        for module, training in modes:
            module.training = training


def _together(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The last places of all prompts side by side in memory.

    The library hands over a slice of all places. Of a slice PyTorch makes a batch of products and copies the matrix of
    the vocabulary for every prompt: 300 MiB for six prompts of SmolLM2.
    """
    return (inputs[0].contiguous(), *inputs[1:])


def _generator(loaded: Loaded) -> Callable[..., Any]:
    if not loaded.model.can_generate():
        raise UserError(f"{type(loaded.model).__name__} cannot generate text", where=loaded.path)
    return getattr(loaded.model, "generate")  # noqa: B009 - comes from a mixin that the type does not name


def _arguments(loaded: Loaded, config: GenerateConfig, ends: list[int]) -> dict[str, Any]:
    sampling = config.temperature > 0
    # Every setting is written out: what is left open would come from the model's own generation_config.
    settings = GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        do_sample=sampling,
        temperature=config.temperature if sampling else 1.0,
        top_p=config.top_p if sampling else 1.0,
        top_k=config.top_k if sampling else 0,
        repetition_penalty=config.repetition_penalty,
        num_beams=1,
        num_return_sequences=1,
        no_repeat_ngram_size=config.no_repeat_ngram_size,
        min_length=0,
        min_new_tokens=config.min_new_tokens,
        eos_token_id=ends or None,
        pad_token_id=pad_id(loaded.tokenizer),
    )
    return {"generation_config": settings}


def _stops(loaded: Loaded, config: GenerateConfig) -> dict[str, Any]:
    return {"stop_strings": list(config.stop), "tokenizer": loaded.tokenizer} if config.stop else {}


def _batches(lengths: Sequence[int], new: int, budget: int) -> Iterator[list[int]]:
    """Row numbers, longest prompts first, so that a batch that does not fit in memory shows at once."""
    batch: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if batch and (len(batch) + 1) * (lengths[batch[0]] + new) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _left_pad(rows: Sequence[Sequence[int]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, width - len(row) :] = torch.tensor(list(row))
        mask[index, width - len(row) :] = 1
    return ids.to(device), mask.to(device)


def _generation(
    tokenizer: PreTrainedTokenizerBase, new: list[int], ends: list[int], config: GenerateConfig, seconds: float
) -> Generation:
    at = next((i for i, token in enumerate(new) if token in ends), None)
    ids = new if at is None else new[: at + 1]
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    places = [place for place in (text.find(stop) for stop in config.stop) if place >= 0]
    if at is None and places:  # shorter than its batch: what follows the stop text is padding
        ids = _without_padding(ids, tokenizer)
    text = text[: min(places)] if places else text
    return Generation(text, tuple(ids), at is not None or bool(places), seconds)


def _without_padding(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    end = len(ids)
    while end > 1 and ids[end - 1] == pad_id(tokenizer):
        end -= 1
    return ids[:end]


def _until_stop(pieces: Iterator[str], stops: Sequence[str]) -> Iterator[str]:
    """Pass text on up to the first stop text, holding back an end that may be the beginning of one."""
    held = ""
    reserve = max((len(stop) for stop in stops), default=1) - 1
    for piece in pieces:
        held += piece
        places = [place for place in (held.find(stop) for stop in stops) if place >= 0]
        if places:
            held = held[: min(places)]
            break
        ready = held[: len(held) - reserve]
        if ready:
            yield ready
            held = held[len(ready) :]
    if held:
        yield held
