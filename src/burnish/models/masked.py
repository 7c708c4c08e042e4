"""Load a masked language model with its head."""

from __future__ import annotations

import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.models.config import ModelConfig
from burnish.models.fetch import fetch
from burnish.models.quiet import quiet


def load_masked(config: ModelConfig) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A masked language model in fp32 and its tokenizer.

    Raises:
        UserError: It cannot be read, its files hold no such head, or its tokenizer has no mask.
    """
    fetched = fetch(config)
    try:
        with quiet():
            model, info = AutoModelForMaskedLM.from_pretrained(
                fetched.folder,
                dtype=torch.float32,
                trust_remote_code=config.trust_remote_code,
                use_safetensors=fetched.safetensors,
                output_loading_info=True,
            )
            tokenizer = AutoTokenizer.from_pretrained(fetched.folder, trust_remote_code=config.trust_remote_code)
    except Exception as error:
        shown = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UserError(
            f"this is not a masked language model that can be loaded: {shown}",
            where=config.path,
            fix="name one that was saved with its head, such as BERT or RoBERTa",
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise UserError(
            f"{len(missing)} weights of {type(model).__name__} are not in the files and would be random, such as "
            f"`{missing[0]}`",
            where=config.path,
            fix="name a model that was saved with its masked-language-model head; a sentence encoder has none",
        )
    if tokenizer.mask_token_id is None:
        raise UserError("the tokenizer of this model has no mask token", where=config.path, fix="name another model")
    return model.eval(), tokenizer
