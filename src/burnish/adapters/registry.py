"""Every method of this room, found by its file, and the union of their configurations for recipes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import Discriminator, Tag

import burnish.adapters
from burnish.adapters.base import METHODS, Method, MethodConfig
from burnish.adapters.peft_bridge import PEFT, PeftBridgeConfig

__all__ = ["METHODS", "AdapterConfig", "Method", "MethodConfig"]

_ABOVE = frozenset({"registry", "load", "merge"})  # these build on the finished table

for _module in pkgutil.iter_modules(burnish.adapters.__path__):
    if _module.name not in _ABOVE:
        importlib.import_module(f"burnish.adapters.{_module.name}")

if TYPE_CHECKING:
    AdapterConfig: TypeAlias = MethodConfig
else:
    # names of a family, such as `peft:LOHA`, share one configuration: the tag of a recipe is then the family's
    _CONFIGS = {name: METHODS[name].config for name in METHODS} | {PeftBridgeConfig.__name__: PeftBridgeConfig}

    def _tag(value):
        name = value.get("method") if isinstance(value, dict) else getattr(value, "method", None)
        return PeftBridgeConfig.__name__ if str(name).startswith(PEFT) else name

    _MEMBERS = tuple(Annotated[config, Tag(name)] for name, config in _CONFIGS.items())
    AdapterConfig = Annotated[Union[_MEMBERS], Discriminator(_tag)]  # noqa: UP007  # members known at run time
"""The `adapter` section of a recipe: the configuration of any registered method, told apart by `method`."""
