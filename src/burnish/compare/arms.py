"""The ways that `burnish tradeoff` tries: each a name and changes of the recipe."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.adapters.registry import METHODS
from burnish.compare.variants import Variant, apart
from burnish.core.errors import UserError
from burnish.models.load import load_model_config
from burnish.train.config import RunConfig

PLAIN = "plain"
"""The recipe as it is."""

GENTLE = 0.25
"""Factor on the learning rate of the gentle arms."""


def read_arms(given: Sequence[str], config: RunConfig, *, defaults: bool = True) -> list[Variant]:
    """The plain arm, the default ones, and those that were named, such as ``gentle: train.learning_rate=5e-5``.

    Args:
        given: Arms as a user writes them; one that has the name of a default takes its place.
        config: The recipe.
        defaults: Whether there are default arms beside the plain one.

    Raises:
        UserError: An arm is malformed, or named twice.
    """
    own = [_arm(text) for text in given]
    for position, arm in enumerate(own):
        if arm.slug.lower() in {other.slug.lower() for other in own[:position]}:
            raise UserError(f"the arm `{arm.label}` is named twice", where="--arm", fix="give each a name of its own")
    known = default_arms(config) if defaults else [Variant(PLAIN, ())]
    taken = {arm.slug.lower(): arm for arm in own}
    kept = [taken.pop(arm.slug.lower(), arm) for arm in known]
    return [*kept, *taken.values()]


def default_arms(config: RunConfig) -> list[Variant]:
    """Six ways: plain, general rows mixed in, held near the original's predictions or weights, gently, and both."""
    rate = config.train.learning_rate or min(METHODS[adapter.method].learning_rate for adapter in config.adapters)
    gentle = f"train.learning_rate={rate * GENTLE:.3g}"
    arms: dict[str, list[str]] = {PLAIN: []}
    if config.classifies:  # no text is learnt beside a head
        arms |= {
            "distill": ["regularizers=[distill]"],
            "l2_sp": ["regularizers=[l2_sp]"],
            "gentle": [gentle],
            "gentle and l2_sp": [gentle, "regularizers=[l2_sp]"],
            "average": ["checkpoint.ema={decay: 0.99}"],
        }
    else:
        source = "self" if load_model_config(config.model).is_encoder_decoder else "general"
        replay = ["data.replay.ratio=0.2"] + ([f"data.replay.source={source}"] if source == "self" else [])
        arms |= {
            "replay 20%": replay,
            "distill": ["regularizers=[distill]"],
            "l2_sp": ["regularizers=[l2_sp]"],
            "gentle": [gentle],
            "gentle and replay": [gentle, *replay],
        }
    return [Variant(label, (), tuple(overrides)) for label, overrides in arms.items()]


def _arm(text: str) -> Variant:
    label, colon, rest = text.partition(":")
    overrides = [piece for piece in apart(rest.strip(), " ") if piece]
    wrong = next((piece for piece in overrides if "=" not in piece), None)
    if not label.strip() or not colon or wrong:
        what = f"`{wrong}` in the arm `{text}` is no setting" if wrong else f"`{text}` is no arm"
        fix = 'write it as `--arm "replay and less: data.replay.ratio=0.3 train.num_epochs=1"`'
        raise UserError(what, where="--arm", fix=fix)
    return Variant(label.strip(), (), tuple(overrides))
