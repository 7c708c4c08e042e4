"""Shapes of well-known models as plain numbers, so that a plan needs no file of theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from burnish.core.errors import UserError
from burnish.core.names import suggestion


@lru_cache(maxsize=1)
def presets() -> Mapping[str, Mapping[str, Any]]:
    """The values of each configuration, by name."""
    values: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("shapes.json").read_text("utf-8"))
    return values


def preset(name: str) -> PreTrainedConfig:
    """The configuration of a model that is known by name.

    Raises:
        UserError: None is.
    """
    known = presets()
    if name not in known:
        raise UserError(f"no shape is known as `{name}`", where="--shape", fix=suggestion(name, known))
    values = dict(known[name])
    config: PreTrainedConfig = AutoConfig.for_model(values.pop("model_type"), **values)
    return config
