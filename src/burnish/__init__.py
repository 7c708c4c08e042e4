"""Burnish fine-tunes pre-trained language models and proves what it did.

The names below are loaded when they are first used, so that importing the package stays quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from burnish.core.chatter import keep_deepspeed_quiet
from burnish.core.threads import sleep_sooner

__version__ = "0.1.0"

sleep_sooner()  # PyTorch is loaded behind this
keep_deepspeed_quiet()

if TYPE_CHECKING:
    from burnish.api import load_recipe, resume, run
    from burnish.core.errors import BurnishError, TrainingStopped, UserError
    from burnish.train.config import RunConfig
    from burnish.train.run import RunResult

_HOMES = {
    "load_recipe": "burnish.api",
    "resume": "burnish.api",
    "run": "burnish.api",
    "BurnishError": "burnish.core.errors",
    "TrainingStopped": "burnish.core.errors",
    "UserError": "burnish.core.errors",
    "RunConfig": "burnish.train.config",
    "RunResult": "burnish.train.run",
}
__all__ = [
    "BurnishError",
    "RunConfig",
    "RunResult",
    "TrainingStopped",
    "UserError",
    "__version__",
    "load_recipe",
    "resume",
    "run",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'burnish' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
