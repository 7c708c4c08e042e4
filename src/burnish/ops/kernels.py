"""Finds the kernels that were written for one kind of device, without importing what other machines lack."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any


@lru_cache(maxsize=1)
def has_triton() -> bool:
    """Whether Triton, which comes with PyTorch's builds for GPUs, can be imported."""
    return importlib.util.find_spec("triton") is not None


@cache
def triton_kernel(file: str, name: str) -> Callable[..., Any] | None:
    """A function of ``burnish.ops.triton``, or None where Triton is not installed.

    Importing those files imports Triton, so they are imported when a kernel is first asked for.

    Args:
        file: Name of the file, such as ``rms_norm``.
        name: Name of the function in it.
    """
    return getattr(importlib.import_module(f"burnish.ops.triton.{file}"), name) if has_triton() else None
