"""Threads, allocator and measured rates."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from burnish.ops import machine
from burnish.ops.machine import MEASUREMENTS, cached_products, keep_memory, preferred_dtype, product_rate

FAULTS = """
import resource, sys, torch
from burnish.ops.machine import keep_memory
if sys.argv[1] == "keep":
    assert keep_memory()
def work():
    for _ in range(5):
        torch.ones(16 << 20).add_(1)  # 64 MiB, freed at once
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


HELD = """
import sys, torch
from pathlib import Path
from burnish.ops.machine import return_memory
def held():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))
torch.ones(7 << 20)  # 28 MiB, mapped and freed: from here on glibc keeps whatever is smaller
if sys.argv[1] == "return":
    assert return_memory()
before = held()
gathered, kept = [], []
for _ in range(20):
    gathered.append(torch.ones(3 << 20))  # 12 MiB
    kept.append(torch.ones(1 << 16))  # 256 KiB: too large for the holes of Python's own objects
del gathered
print(held() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is glibc's")
def test_kept_memory_is_not_mapped_anew() -> None:
    """Five tensors of 64 MiB, one after the other, are 5 x 16,384 pages of 4 KiB; kept, hardly one is new.

    64 MiB is above the largest size, 32 MiB, that glibc learns to keep by itself. A kernel that takes idle pages away
    makes some of them new in either mode, so the numbers are held against each other and not against zero.
    """
    faults = {}
    for mode in ("default", "keep"):
        command = [sys.executable, "-c", FAULTS, mode]
        faults[mode] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < faults["default"] / 4


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BURNISH_KEEP_MEMORY", "0")
    assert not keep_memory()


def test_the_faster_format_is_preferred() -> None:
    dtype, reason = preferred_dtype(torch.device("cpu"))
    assert dtype in (torch.float32, torch.bfloat16) and "GFLOP/s" in reason
    assert product_rate(torch.float32) > 1e8


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or platform.libc_ver()[0] != "glibc", reason="glibc on Linux"
)
def test_what_is_freed_between_others_goes_back() -> None:
    """Twenty tensors of 12 MiB between smaller ones that stay: most of 240 MiB stays by default, and none of it so."""
    left = {}
    for mode in ("default", "return"):
        command = [sys.executable, "-c", HELD, mode]
        left[mode] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert left["default"] > 80 << 10 and left["return"] < 20 << 10, left


def test_prepared_products_are_counted_as_the_environment_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two caches of 128 by default; a user's 16 in one of them makes 144."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        monkeypatch.delenv(name, raising=False)
    assert cached_products() == 256
    monkeypatch.setenv("LRU_CACHE_CAPACITY", "16")
    assert cached_products() == 144


@pytest.mark.parametrize(("features", "measured", "chosen"), [
    (["avx512_bf16"], 4, torch.bfloat16), ([], 2, torch.float32), (["avx512_bf16"], 2 * MEASUREMENTS, torch.float32),
])  # fmt: skip
def test_a_disturbed_measurement_is_made_again(
    features: list[str], measured: int, chosen: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 seems half as fast as fp32 once, then three times as fast: a processor with instructions for bf16 is
    measured twice, one without is believed; where it stays slow it is believed after five times."""
    asked: list[torch.dtype] = []

    def rate(dtype: torch.dtype, device: torch.device | None = None) -> float:
        asked.append(dtype)
        slow = len(asked) <= 2 or measured > 4
        return 1e11 if dtype == torch.float32 else 5e10 if slow else 3e11

    monkeypatch.setattr(machine, "product_rate", rate)
    monkeypatch.setattr(machine, "cpu_features", lambda: features)
    assert preferred_dtype(torch.device("cpu"))[0] == chosen and len(asked) == measured
