"""Load a model and its tokenizer from a folder, a GGUF file or the hub, and say exactly what was loaded."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from burnish.core.errors import UserError
from burnish.core.paths import resolve_path
from burnish.models.attention import use_packed_attention
from burnish.models.classifier import Classifier
from burnish.models.config import ModelConfig
from burnish.models.fetch import Fetched, fetch
from burnish.models.forward import is_causal, packing_mode
from burnish.models.head import verify_head
from burnish.models.quantize import count_parameters, quantize_
from burnish.models.quiet import quiet
from burnish.models.widen import header_of, widened

Kind = Literal["causal", "seq2seq", "encoder"]

_CLASSES = {"causal": AutoModelForCausalLM, "seq2seq": AutoModelForSeq2SeqLM, "headless": AutoModel}
_POOLER = "pooler."
_STORED = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
"""What safetensors call the formats."""


@dataclass
class Loaded:
    """A model that is ready to train or to generate, in evaluation mode.

    Attributes:
        model: The model, on the CPU, in the dtype asked for.
        tokenizer: Its tokenizer, with the recipe's chat template if there is one.
        kind: ``causal``, ``seq2seq`` or, for a model without a head whose tokens see later ones, ``encoder``.
        path: What names the base model elsewhere: the folder loaded from, or the hub name.
        folder: The folder on this machine that the weights were read from.
        origin: Where it came from, in JSON values: path given, kind, hash or commit, model_type, parameters, template.
        classifier: The head of a classification, beside the model, which keeps its own class and names.
        mapped: Whether the weights lie in files that are mapped, and not in the memory of this process.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: Kind
    path: str
    folder: Path
    origin: dict[str, Any] = field(default_factory=dict)
    classifier: Classifier | None = None
    mapped: bool = False


def load(
    config: ModelConfig,
    dtype: torch.dtype,
    base: Path | None = None,
    *,
    verify: bool = True,
    headless: bool = False,
    mapped: bool = False,
) -> Loaded:
    """Load the model that a recipe names.

    Weights come from safetensors, unless the recipe allows pickle. Every weight of the model must be in the files: one
    that is missing would be random. The head is held against the model's own logits, and packing is probed.

    Args:
        config: What to load.
        dtype: Dtype of the weights in memory, but for those that the recipe keeps in 4 bits.
        base: Folder of the recipe, where relative paths start; the working folder if None.
        verify: Hold the head against the model's logits and refuse a causal model that sees later tokens. Needed for
            training, not for generating.
        headless: Load an encoder or a decoder without its language-model head, for a head of another task.
        mapped: Take no memory for weights, where that can be: those that files hold in 16 bits are mapped from a copy
            in fp32, which is made once (`ready_files`).

    Raises:
        UserError: Not found, not readable, not a language model, or against the recipe's safety settings.
    """
    fetched = fetch(config, base)
    model_config = _read_config(config, fetched)
    kind: Kind = "seq2seq" if getattr(model_config, "is_encoder_decoder", False) else "causal"
    if headless and kind == "seq2seq":
        raise UserError(
            f"`{model_config.model_type}` is an encoder-decoder, which has no one place to classify from",
            where=config.path,
            fix="name an encoder such as BERT, or a decoder such as Llama; or learn the labels as text: `task: text`",
        )
    tokenizer, template = _read_tokenizer(config, fetched, base)
    # codes are made of the weights as the files hold them, so that they do not depend on what a run computes in
    stored: torch.dtype | Literal["auto"] = "auto" if config.quantization else dtype
    files = ready_files(config, dtype, fetched) if mapped else fetched.folder
    read_from = replace(fetched, folder=files)
    model, unused = _read_model(config, read_from, model_config, "headless" if headless else kind, stored)
    quantized = quantize_(model, config.quantization, dtype) if config.quantization else None
    use_packed_attention(model)
    if headless:
        kind = "causal" if is_causal(model) else "encoder"
    elif verify:
        _verify(model, kind, config)
    origin = {
        "path": config.path,
        **fetched.origin,
        "model_type": model_config.model_type,
        "class": type(model).__name__,
        "parameters": count_parameters(model),
        "dtype": str(dtype).removeprefix("torch."),
        "chat_template": template,
        "packing": packing_mode(model),
        "unused_weights": unused,
        **({"quantization": quantized} if quantized else {}),
    }
    in_files = fetched.safetensors and not config.quantization and not converted_bytes(files, dtype)
    return Loaded(model, tokenizer, kind, fetched.name, fetched.folder, origin, mapped=in_files)


def ready_files(config: ModelConfig, dtype: torch.dtype, fetched: Fetched | None = None) -> Path:
    """The folder whose weights have the format of a run, so that they can be mapped; made where it is not there.

    Args:
        config: The model.
        dtype: The format.
        fetched: Where it was found.

    Raises:
        UserError: The model is not found, or the disk is full.
    """
    fetched = fetched or fetch(config)
    widens = dtype == torch.float32 and fetched.safetensors and not config.quantization
    return widened(fetched.folder) if widens and converted_bytes(fetched.folder, dtype) else fetched.folder


def load_tokenizer(config: ModelConfig, base: Path | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer alone, with the recipe's chat template; no weights are read or fetched."""
    return _read_tokenizer(config, fetch(config, base, weights=False), base)[0]


def load_model_config(config: ModelConfig, base: Path | None = None) -> PreTrainedConfig:
    """The model's configuration alone; no weights are read or fetched."""
    return _read_config(config, fetch(config, base, weights=False))


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills padded places: the padding token's, else that of end-of-sequence, else 0.

    Padding is masked by position, never by this id, so it may be a token that also occurs in the text.
    """
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def _read_config(config: ModelConfig, fetched: Fetched) -> PreTrainedConfig:
    try:
        with quiet():
            return AutoConfig.from_pretrained(fetched.folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        raise _unreadable("configuration", error, fetched) from error


def _read_tokenizer(
    config: ModelConfig, fetched: Fetched, base: Path | None
) -> tuple[PreTrainedTokenizerBase, str | None]:
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(fetched.folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        raise _unreadable("tokenizer", error, fetched) from error
    if config.chat_template is None:
        return tokenizer, "tokenizer" if tokenizer.chat_template else None
    path = resolve_path(config.chat_template, base)
    try:
        tokenizer.chat_template = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"the chat template cannot be read: {error}", where=str(path), fix="name a UTF-8 file"
        ) from None
    return tokenizer, str(path)


def _read_model(
    config: ModelConfig,
    fetched: Fetched,
    model_config: PreTrainedConfig,
    kind: str,
    dtype: torch.dtype | Literal["auto"],
) -> tuple[PreTrainedModel, list[str]]:
    try:
        with quiet():
            model, info = _CLASSES[kind].from_pretrained(
                fetched.folder,
                config=model_config,
                dtype=dtype,
                trust_remote_code=config.trust_remote_code,
                use_safetensors=fetched.safetensors,
                output_loading_info=True,
            )
    except Exception as error:
        raise _unreadable("model", error, fetched) from error
    missing = sorted(info["missing_keys"])
    if kind == "headless" and missing and all(key.startswith(_POOLER) for key in missing):
        model.pooler, missing = None, []  # a pooler that the files do not hold is left out, not made up
    if missing:
        named = ", ".join(f"`{k}`" for k in missing[:5]) + (" …" if len(missing) > 5 else "")
        raise UserError(
            f"{len(missing)} weights of {type(model).__name__} are not in the files and would be random: {named}",
            where=str(fetched.folder),
            fix=f"name a causal or sequence-to-sequence model; this one was saved as {model_config.architectures}",
        )
    return model.eval(), sorted(info["unexpected_keys"])[:20]


def _verify(model: PreTrainedModel, kind: Kind, config: ModelConfig) -> None:
    verify_head(model)
    if kind == "causal" and not is_causal(model):
        raise UserError(
            f"`{model.config.model_type}` lets a token see later ones, so it would be trained to copy them",
            where=config.path,
            fix="name a causal or sequence-to-sequence model, not an encoder",
        )


def _unreadable(part: str, error: Exception, fetched: Fetched) -> UserError:
    if isinstance(error, UserError):
        return error
    text = str(error)
    if "trust_remote_code" in text:
        return UserError(
            f"the {part} needs Python code that comes with the model",
            where=str(fetched.folder),
            fix="read that code, then set `model.trust_remote_code: true`",
        )
    if isinstance(error, MemoryError) or "out of memory" in text.lower():
        return UserError("the model does not fit in memory", where=fetched.name, fix="choose a smaller model or dtype")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    shown = lines[0][:300] if lines else type(error).__name__
    return UserError(
        f"the {part} cannot be loaded: {shown}", where=str(fetched.folder), fix="check the files of the model"
    )


def converted_bytes(folder: Path, dtype: torch.dtype | None) -> int:
    """Bytes of a folder's weights in safetensors that loading converts to a format, so that both are there for a while.

    What has the format already is mapped from its file and not copied. Without a format all of them count.
    """
    total = 0
    for path in folder.glob("*.safetensors"):
        for entry in header_of(path).values():
            if dtype is None or entry["dtype"] != _STORED.get(dtype):
                begin, end = entry["data_offsets"]
                total += end - begin
    return total
