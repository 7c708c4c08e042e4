"""The shapes of a model without its weights: the same modules on the meta device, which holds no numbers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from burnish.core.errors import UserError
from burnish.models.config import ModelConfig
from burnish.models.load import load_model_config
from burnish.models.quiet import quiet


def shapes_of(config: ModelConfig, base: Path | None = None, *, headless: bool = False) -> PreTrainedModel:
    """The model that a recipe names, on the meta device: every module and shape, no weight read or fetched.

    A GGUF file is converted once into the cache, as for every other command.

    Args:
        config: Which model.
        base: Folder of the recipe.
        headless: Without its language-model head, as for a head of another task.

    Raises:
        UserError: The model is not found, or no class of `transformers` can be built from its configuration.
    """
    values = load_model_config(config, base)
    return built(values, config.path, headless=headless, trust=config.trust_remote_code)


def built(values: PreTrainedConfig, name: str, *, headless: bool = False, trust: bool = False) -> PreTrainedModel:
    """The model of a configuration, on the meta device.

    Args:
        values: The configuration.
        name: What to call it in a message.
        headless: Without its language-model head.
        trust: Whether code that comes with the model may run.

    Raises:
        UserError: No class of `transformers` can be built from the configuration.
    """
    kinds = {True: AutoModelForSeq2SeqLM, False: AutoModelForCausalLM}
    made = AutoModel if headless else kinds[bool(getattr(values, "is_encoder_decoder", False))]
    try:
        with quiet(), torch.device("meta"):
            model = made.from_config(values, trust_remote_code=trust)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(
            f"no model can be built from the configuration of `{values.model_type}`: {said}",
            where=name,
            fix="name a causal, sequence-to-sequence or encoder model",
        ) from error
    model.tie_weights()
    return model.eval()
