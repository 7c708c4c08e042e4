"""What a run was made with: versions and machine. Environment variables stay out, since they carry secrets."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import psutil
import torch

from burnish.ops.machine import cpu_features

PACKAGES = (
    "burnish",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "accelerate",
    "datasets",
    "numpy",
    "pydantic",
)


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, processor, memory and device, as JSON values."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        "threads": torch.get_num_threads(),
        "cpu_features": cpu_features(),
        "memory_bytes": psutil.virtual_memory().total,
    }


def version(package: str) -> str | None:
    """The installed version of a package, None without one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
