"""What `--methods` names: methods with their settings, or several together, each as a change of the recipe."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from burnish.adapters.registry import METHODS
from burnish.core.config import apply_overrides, build, parse_value
from burnish.core.errors import UserError
from burnish.train.config import RunConfig

BRIDGE = "peft:"
RATE = "learning_rate"


@dataclass(frozen=True)
class Variant:
    """One line of the comparison.

    Attributes:
        label: As the command named it.
        methods: Each method with its settings; more than one is a hybrid, and none leaves the recipe's.
        overrides: Changes of the rest of the recipe, as ``section.key=value``.
        learning_rate: Its own peak learning rate, where one was given.
    """

    label: str
    methods: tuple[tuple[str, Mapping[str, Any]], ...]
    overrides: tuple[str, ...] = ()
    learning_rate: float | None = None

    @property
    def slug(self) -> str:
        """The label as part of a file name."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.label).strip("-.") or "method"


def read_variants(text: str | None) -> list[Variant]:
    """The variants that a text such as ``lora,lora+rslora=true,full,lora&bottleneck`` names.

    A setting behind ``+`` belongs to the method before it; one with a dot, such as ``model.quantization=nf4``, to the
    recipe; ``learning_rate`` to the training. ``&`` joins methods in one model. Without a text, all native methods.

    Raises:
        UserError: A name or a setting is malformed, or two variants are the same.
    """
    labels = apart(text, ",") if text else [name for name in METHODS if not name.startswith(BRIDGE)]
    found = [_variant(label.strip()) for label in labels]
    for position, variant in enumerate(found):
        if variant.slug.lower() in {other.slug.lower() for other in found[:position]}:
            raise UserError(f"`{variant.label}` is named twice", where="--methods", fix="name each variant once")
    return found


def recipe_of(config: RunConfig, variant: Variant) -> dict[str, Any]:
    """The recipe's values with a variant in the place of its adapter.

    A method that the recipe itself uses keeps the recipe's settings and learning rate, which were chosen for it; any
    other starts from its own defaults, its own learning rate among them.
    """
    values = config.model_dump(mode="json", exclude_unset=True)
    if not variant.methods:
        return apply_overrides(values, variant.overrides)
    given: Any = values.get("adapter")
    own = {one["method"]: one for one in (given if isinstance(given, list) else [given])}
    sections = [{**own.get(name, {}), "method": name, **settings} for name, settings in variant.methods]
    values["adapter"] = sections[0] if len(sections) == 1 else sections
    train = dict(values.get("train", {}))
    if {name for name, _ in variant.methods} != set(own):
        train.pop(RATE, None)
    if variant.learning_rate is not None:
        train[RATE] = variant.learning_rate
    values["train"] = train
    return apply_overrides(values, variant.overrides)


def configured(values: Mapping[str, Any], label: str) -> RunConfig:
    """The values as a recipe.

    Raises:
        UserError: A setting is wrong; it names the variant.
    """
    return build(RunConfig, values, where=f"the variant `{label}`")


def apart(text: str, mark: str) -> Sequence[str]:
    """Pieces between marks that stand in no bracket."""
    pieces, depth = [""], 0
    for character in text:
        depth += (character in "[{(") - (character in "]})")
        if character == mark and not depth:
            pieces.append("")
        else:
            pieces[-1] += character
    return pieces


def _variant(label: str) -> Variant:
    methods, overrides, rate = [], [], None
    for joined in apart(label, "&"):
        name, *settings = (part.strip() for part in apart(joined, "+"))
        own: dict[str, Any] = {}
        for setting in settings:
            key, equals, text = setting.partition("=")
            if not equals or not key.strip():
                raise UserError(
                    f"`{setting}` in `{label}` is no setting",
                    where="--methods",
                    fix="write it as `lora+rank=8`, or as `lora+model.path=...` for another section of the recipe",
                )
            if "." in key:
                overrides.append(setting)
            elif key == RATE:
                rate = _rate(text, label)
            else:
                own[key] = _value(text, setting)
        if not name:
            raise UserError(f"`{label}` names no method", where="--methods", fix="write names such as `lora,full`")
        METHODS[name]  # an unknown name is refused here, with the nearest
        methods.append((name, own))
    return Variant(label, tuple(methods), tuple(overrides), rate)


def _rate(text: str, label: str) -> float:
    try:
        return float(text)
    except ValueError:
        fix = "write it as `full+learning_rate=5e-5`"
        raise UserError(f"`{text}` in `{label}` is no learning rate", where="--methods", fix=fix) from None


def _value(text: str, setting: str) -> Any:
    try:
        return parse_value(text)
    except (yaml.YAMLError, ValueError):
        raise UserError(f"the value of `{setting}` is not valid YAML", where="--methods", fix="quote it") from None
