"""What this machine can do with tensors: its device, its processor's features, and measured product rates."""

from __future__ import annotations

import ctypes
import os
import platform
import time

import torch

from burnish.core.processes import local_rank

BF16_GAIN = 1.3
"""bf16 is chosen on a processor only where it multiplies at least this much faster than fp32."""

PRODUCT = {"cpu": (512, 1024, 1024), "cuda": (4096, 4096, 4096)}
"""Rows, inner and outer width of the measured product: a linear layer on a full batch, large enough for the device."""

_MEASURE_SECONDS = 0.05
MEASUREMENTS = 5
"""Of the product rates, at most."""

BF16_FEATURES = ("avx512_bf16", "amx_bf16", "bf16")
"""Instruction sets that multiply bf16, as the kernel lists them."""

_KEEP_MEMORY = {-4: 0, -1: 2**31 - 1, -2: 64 << 20}
"""glibc's M_MMAP_MAX: nothing is mapped apart; M_TRIM_THRESHOLD: nothing is given back; M_TOP_PAD: grow in 64 MiB."""

_MMAP_THRESHOLD = -3
"""glibc's M_MMAP_THRESHOLD: what is at least so large is mapped apart. Naming it ends its growing."""


_CACHED_PRODUCTS = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""How many products of one shape each the two caches below PyTorch may hold; a training step has about forty."""


def default_device() -> torch.device:
    """The first GPU, or that of this process among several; or the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank() % torch.cuda.device_count())  # a launcher may show each process its own


def product_rate(dtype: torch.dtype, device: torch.device | None = None) -> float:
    """Measured rate of a matrix product of the size in ``PRODUCT``, in operations per second.

    The best of as many products as fit into 50 ms, two at least: the fastest is the one that nothing disturbed. One
    untimed product comes first, since the first of its kind also chooses a kernel.
    """
    device = device or torch.device("cpu")
    rows, inner, outer = PRODUCT[device.type]
    a = torch.ones(rows, inner, dtype=dtype, device=device)
    b = torch.ones(outer, inner, dtype=dtype, device=device)
    _product_seconds(a, b)
    times: list[float] = []
    while len(times) < 2 or sum(times) < _MEASURE_SECONDS:
        times.append(_product_seconds(a, b))
    return 2 * rows * inner * outer / min(times)


def compared_rates(device: torch.device) -> tuple[float, float]:
    """The rates of products in fp32 and in bf16, the best of a few measurements where they contradict the processor.

    One that has instructions for bf16 multiplies it several times faster. Where it seems not to, another program was
    in the way, and a run in fp32 would be slow to its end.
    """
    fp32 = bf16 = 0.0
    for _ in range(MEASUREMENTS):
        fp32 = max(fp32, product_rate(torch.float32, device))
        bf16 = max(bf16, product_rate(torch.bfloat16, device))
        if bf16 >= BF16_GAIN * fp32 or device.type != "cpu" or not set(BF16_FEATURES) & set(cpu_features()):
            break
    return fp32, bf16


def preferred_dtype(device: torch.device | None = None) -> tuple[torch.dtype, str]:
    """The number format that multiplies fastest here and trains without loss scaling, with the reason."""
    device = device or default_device()
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return torch.bfloat16, "this GPU multiplies bf16 in hardware"
        return torch.float32, "this GPU has no bf16 in hardware"
    fp32, bf16 = compared_rates(device)
    ratio = f"bf16 products run at {bf16 / 1e9:.0f} GFLOP/s here, fp32 at {fp32 / 1e9:.0f}"
    return (torch.bfloat16, ratio) if bf16 >= BF16_GAIN * fp32 else (torch.float32, ratio)


def cpu_features() -> list[str]:
    """The instruction sets that matter for matrix products, as the kernel lists them; empty where it doesn't."""
    wanted = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_tile", "asimd", "bf16", "sve")
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            words = {word for line in file if line.startswith(("flags", "Features")) for word in line.split()}
    except OSError:
        return []
    return [name for name in wanted if name in words]


def usable_cores() -> int:
    """Processor cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_all_cores() -> int:
    """Let PyTorch use every core that this process may run on, unless OMP_NUM_THREADS says otherwise."""
    if "OMP_NUM_THREADS" not in os.environ and hasattr(os, "sched_getaffinity"):
        torch.set_num_threads(usable_cores())
    return torch.get_num_threads()


def devices_here() -> int:
    """How many GPUs this machine has; 1 without any."""
    return max(1, torch.cuda.device_count())


def keep_memory() -> bool:
    """Let glibc keep the memory that tensors free, for the next ones; whether that could be set.

    By default every tensor over some megabytes is mapped anew and handed back when it is freed. Each of its pages is
    then zeroed again by the kernel at its first touch, which on a virtual machine can cost more than the arithmetic
    (docs/performance.md). What is free already goes back first. The process keeps its peak until it ends;
    `BURNISH_KEEP_MEMORY=0` leaves the default.
    """
    if not keeps_memory():
        return False
    trim_memory()
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return min(mallopt(option, value) for option, value in _KEEP_MEMORY.items()) == 1


def return_memory() -> bool:
    """Let glibc hand back every tensor of a megabyte and more as soon as it is freed; whether that could be set.

    For processes that hold a share of the weights, and gather each layer's for a moment. By default glibc raises the
    size that it maps apart with each block that is freed, up to 32 MiB, and keeps what lies between others: several
    times what is in use, of many gathered layers.
    """
    trim_memory()
    try:
        return bool(ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 20))
    except (OSError, AttributeError, TypeError):
        return False


def trim_memory() -> None:
    """Let glibc hand back what is free now, also between what is in use; without effect elsewhere."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # no glibc; Windows takes no None
        return


def keeps_memory() -> bool:
    """Whether ``keep_memory`` does something here."""
    return os.environ.get("BURNISH_KEEP_MEMORY") != "0" and platform.libc_ver()[0] == "glibc"


def bound_product_caches() -> None:
    """Let the caches of prepared matrix products hold few of them; before the first product, or without effect.

    oneDNN and the layer above it prepare code and workspace for every shape of a bf16 product, half a megabyte each,
    and keep 1,024 of them. Packs of text differ in length, so a process grows by 60 MB with every update until a
    gigabyte is held. Preparing one again takes a millisecond. What the environment says stays.
    """
    for name, value in _CACHED_PRODUCTS.items():
        os.environ.setdefault(name, value)


def cached_products() -> int:
    """How many prepared products the two caches may hold together, as ``bound_product_caches`` or a user has it.

    What one of them has forgotten the other may know, so that in the long run they hold different ones.
    """
    found = [os.environ.get(name, value) for name, value in _CACHED_PRODUCTS.items()]
    return sum(int(value) for value in found if value.isdecimal())


def _product_seconds(a: torch.Tensor, b: torch.Tensor) -> float:
    began = time.perf_counter()
    result = torch.nn.functional.linear(a, b)
    float(result[0, 0])  # waits for the device
    return time.perf_counter() - began
