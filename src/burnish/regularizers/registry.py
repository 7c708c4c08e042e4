"""Every regularizer of this room, found by its file, and the union of their configurations for recipes."""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING, Annotated, TypeAlias, Union

from pydantic import Field

import burnish.regularizers
from burnish.regularizers.base import REGULARIZERS, Regularizer, RegularizerConfig

__all__ = ["REGULARIZERS", "AnyRegularizer", "Regularizer", "RegularizerConfig"]

for _module in pkgutil.iter_modules(burnish.regularizers.__path__):
    if _module.name != "registry":
        importlib.import_module(f"burnish.regularizers.{_module.name}")

if TYPE_CHECKING:
    AnyRegularizer: TypeAlias = RegularizerConfig
else:
    _CONFIGS = tuple(REGULARIZERS[name].config for name in sorted(REGULARIZERS))
    AnyRegularizer = Annotated[Union[_CONFIGS], Field(discriminator="kind")]  # noqa: UP007  # known at run time
"""An entry of `regularizers` in a recipe: the configuration of any registered one, told apart by `kind`."""
