"""The generation settings of a recipe in `transformers`' own file, `generation_config.json`, and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedModel

from burnish.core.errors import UserError
from burnish.models.generate import GenerateConfig

FILE = "generation_config.json"
MADE_BY = "burnish"
"""A key that only our files have. Settings of other people's files are not taken over unasked: many of them sample."""


def with_settings(model: PreTrainedModel, config: GenerateConfig) -> GenerationConfig:
    """The model's own generation configuration (its special tokens) with the settings of a recipe.

    Greedy decoding is written as ``do_sample: false`` without temperature, top-p and top-k, which it does not read.
    Stop texts are ``stop_strings``: `transformers` asks for ``tokenizer=`` to follow them, and says so.
    """
    own = model.generation_config.to_dict()
    special = {k: v for k, v in own.items() if k.endswith("_token_id") or k == "forced_eos_token_id"}
    sampling: dict[str, Any] = {"do_sample": False}
    if config.temperature > 0:
        sampling = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": config.top_k}
    return GenerationConfig(
        **special,
        **sampling,
        max_new_tokens=config.max_new_tokens,
        min_new_tokens=config.min_new_tokens or None,
        repetition_penalty=config.repetition_penalty,
        no_repeat_ngram_size=config.no_repeat_ngram_size or None,
        stop_strings=list(config.stop) or None,
        **{MADE_BY: {"seed": config.seed}},
    )


def save_settings(folder: Path, model: PreTrainedModel, config: GenerateConfig) -> None:
    """Write ``generation_config.json`` into the folder of a model, or of an adapter."""
    with_settings(model, config).save_pretrained(folder)


def stored_settings(folder: Path) -> GenerateConfig | None:
    """The settings that a run stored with what it handed over; None where there are none of ours.

    Raises:
        UserError: The file is damaged, or holds settings that Burnish does not know.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict) or MADE_BY not in values:
            return None
        sampling = bool(values.get("do_sample"))
        settings = {
            "max_new_tokens": values.get("max_new_tokens"),
            "min_new_tokens": values.get("min_new_tokens"),
            "temperature": values.get("temperature", 1.0) if sampling else 0.0,
            "top_p": values.get("top_p") if sampling else None,
            "top_k": values.get("top_k") if sampling else None,
            "repetition_penalty": values.get("repetition_penalty"),
            "no_repeat_ngram_size": values.get("no_repeat_ngram_size"),
            "stop": tuple(values.get("stop_strings") or ()),
            "seed": (values[MADE_BY] or {}).get("seed"),
        }
        return GenerateConfig(**{k: v for k, v in settings.items() if v is not None})
    except (OSError, ValueError, AttributeError, TypeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UserError(
            f"the stored generation settings cannot be read: {reason}",
            where=str(path),
            fix="mend or remove the file; settings on the command line take its place",
        ) from None
