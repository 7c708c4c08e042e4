"""What cannot be done to a base whose weights are kept in few bits, refused by name before the first step."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from burnish.adapters.base import METHODS, MethodConfig, Parts
from burnish.adapters.peft_methods import ON_4_BITS
from burnish.core.errors import UserError
from burnish.models.quantize import bits_of


def refuse_quantized(model: PreTrainedModel, configs: Sequence[MethodConfig], parts: Sequence[Parts]) -> None:
    """Refuse methods that would train weights of few bits, or hand over a whole model that holds some.

    Raises:
        UserError: With the method's name.
    """
    bits = _bits(model)
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


def refuse_on_few_bits(model: PreTrainedModel, name: str, on_4_bits: bool) -> None:
    """Refuse a method of `peft` on a base of few bits where it was not found to compute what it does on whole weights.

    Args:
        model: The base.
        name: The method, for the message.
        on_4_bits: Whether it was, on 4 bits.

    Raises:
        UserError: With the methods that will do.
    """
    bits = _bits(model)
    if bits == 8:
        raise UserError(
            f"`{name}` was not tried on a base of 8 bits",
            where="adapter.method",
            fix="use a method of Burnish's own such as `lora`, or leave `model.quantization` out",
        )
    if bits == 4 and not on_4_bits:
        raise UserError(
            f"`{name}` reads the weights of the base, and this base keeps them in 4 bits",
            where="adapter.method",
            fix=f"leave `model.quantization` out, or use one of {', '.join(sorted(ON_4_BITS))}, or `lora`",
        )


def _bits(model: PreTrainedModel) -> int | None:
    return next((found for module in model.modules() if (found := bits_of(module)) is not None), None)
