"""Finds the kernels that were written for one kind of device, without importing what other machines lack."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor

TRITON_FORMATS = (torch.bfloat16, torch.float16, torch.float32)
"""What the kernels for element by element work take; float64 would lose its digits in their fp32."""


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


def fitting_kernel(file: str, name: str, *tensors: Tensor) -> Callable[..., Any] | None:
    """``triton_kernel`` where all tensors are of one format that it takes, else None."""
    dtype = tensors[0].dtype
    fits = dtype in TRITON_FORMATS and all(t.dtype == dtype and t.device == tensors[0].device for t in tensors)
    return triton_kernel(file, name) if fits else None
