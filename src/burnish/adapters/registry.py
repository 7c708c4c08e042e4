"""Every method of this room, found by its file, and the union of their configurations for recipes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import Field

import burnish.adapters
from burnish.adapters.base import METHODS, Method, MethodConfig

__all__ = ["METHODS", "AdapterConfig", "Method", "MethodConfig"]

_ABOVE = frozenset({"registry", "load", "merge"})  # these build on the finished table

for _module in pkgutil.iter_modules(burnish.adapters.__path__):
    if _module.name not in _ABOVE:
        importlib.import_module(f"burnish.adapters.{_module.name}")

if TYPE_CHECKING:
    AdapterConfig: TypeAlias = MethodConfig
else:
    _CONFIGS = tuple(METHODS[name].config for name in METHODS)
    AdapterConfig = Annotated[Union[_CONFIGS], Field(discriminator="method")]  # noqa: UP007  # members known at run time
"""The `adapter` section of a recipe: the configuration of any registered method, told apart by `method`."""
