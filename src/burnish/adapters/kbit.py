"""What cannot be done to a base whose weights are kept in few bits, refused by name before the first step."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from burnish.adapters.base import METHODS, MethodConfig, Parts
from burnish.core.errors import UserError
from burnish.models.quantize import bits_of


def refuse_quantized(model: PreTrainedModel, configs: Sequence[MethodConfig], parts: Sequence[Parts]) -> None:
    """Refuse methods that would train weights of few bits, or hand over a whole model that holds some.

    Raises:
        UserError: With the method's name.
    """
    bits = next((found for module in model.modules() if (found := bits_of(module)) is not None), None)
    if bits is None:
        return
    for config, part in zip(configs, parts, strict=True):
        coded = [name for name in part.base if not model.get_parameter(name).is_floating_point()]
        if coded or METHODS[config.method].format == "model":
            raise UserError(
                f"`{config.method}` trains the base's own weights, and this base keeps them in {bits} bits, which no "
                "gradient reaches",
                where=coded[0] if coded else "adapter.method",
                fix="train an adapter such as `lora` beside them, or leave `model.quantization` out",
            )
