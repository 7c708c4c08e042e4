"""What is known of single methods of `peft`: which are refused and why, and what they start with."""

from __future__ import annotations

from collections.abc import Mapping

UNSUITED: Mapping[str, str] = {
    "PROMPT_TUNING": "it changes the input of the whole model, not a module",
    "MULTITASK_PROMPT_TUNING": "it changes the input of the whole model, by the task of each row",
    "P_TUNING": "it changes the input of the whole model, not a module",
    "PREFIX_TUNING": "it fills the model's cache of keys and values, not a module",
    "CPT": "it changes the input of the whole model, not a module",
    "CARTRIDGE": "it fills the model's cache of keys and values, not a module",
    "ADAPTION_PROMPT": "it replaces whole attention modules",
    "XLORA": "it mixes other adapters, which it runs the model twice for",
    "IA3": "its file lists modules that `peft` refuses to read again when they are named in full",
    "POLY": "it needs the task of each row beside the tokens",
    "SHADOW": "it runs a second model beside the first",
    "ADALORA": "it takes ranks away between updates, which the loop would have to do for it",
}
"""Methods of `peft` that cannot hang on modules one by one, with the reason."""

UNSUITED_OPTIONS: Mapping[str, str] = {
    "target_modules": "name modules in `adapter.targets`",
    "modules_to_save": "a new head is trained with `task: classification`",
    "peft_type": "it follows from `adapter.method`",
    "task_type": "it follows from the model",
    "inference_mode": "leave it out",
    "base_model_name_or_path": "it follows from `model`",
    "trainable_token_indices": "leave it out",
}
"""Options that a recipe says in another way."""

BOOKKEEPING = frozenset(
    {"base_model_name_or_path", "revision", "inference_mode", "task_type", "target_modules", "peft_version"}
)
"""What `peft`'s file of a configuration holds beside the options of the method."""

OWN_TARGETS = frozenset({"LN_TUNING", "TRAINABLE_TOKENS"})
"""Methods whose modules are no linear maps; `targets: auto` leaves the choice to `peft`."""

NOT_IDENTITY = frozenset({"C3A", "DEFT", "FOURIERFT", "FROD", "HRA", "OSF", "UNILORA", "VBLORA"})
"""Methods that change the model's outputs before the first update, as `peft` starts them; some by rounding only."""

ON_4_BITS = frozenset(
    {"BEFT", "BOFT", "C3A", "FOURIERFT", "GRALORA", "LILY", "LN_TUNING", "MISS",
     "OFT", "RANDLORA", "ROAD", "TRAINABLE_TOKENS", "VBLORA", "VERA", "WAVEFT"}
)  # fmt: skip
"""Methods that were held against the same method on the unpacked weights, with equal results. The others read the
weights of their hosts: most of them fail on codes of 4 bits, and SHIRA trains something else without a word."""

RATE = (1e-3, "methods of `peft` with few parameters that start at zero; no trial of this one stands behind it")
"""Default peak learning rate of a method that is not in ``RATES``."""

RATES: Mapping[str, tuple[float, str]] = {
    "BOFT": (1e-3, "angles of rotations, which start at zero; each weight moves by a small turn"),
    "FOURIERFT": (5e-2, "coefficients of a spectrum whose inverse transform divides by the size of the matrix"),
    "HRA": (1e-3, "directions of reflections, which start in pairs that undo each other"),
    "LN_TUNING": (1e-3, "few weights that start at the pre-trained ones, near one"),
    "LOHA": (5e-4, "a product of two low-rank updates, near LoRA's rate"),
    "LOKR": (1e-3, "a Kronecker product with few parameters"),
    "OFT": (1e-3, "angles of rotations, which start at zero; each weight moves by a small turn"),
    "RANDLORA": (1e-3, "scales of fixed random bases, which start at zero"),
    "VBLORA": (1e-2, "shares of a bank of vectors, whose logits move slowly"),
}
"""Default peak learning rate by method, with its reason."""
