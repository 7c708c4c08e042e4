"""How much memory stays for each bf16 product of a new number of rows: the constant `PREPARED` of memory plans.

    python bench/prepared_products.py

Every product is asked for with 64 numbers of rows, into memory that is there already; what the process grows by is what
oneDNN and the layer above it keep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

# read when the first product is prepared: nothing may be forgotten here
os.environ.update(ONEDNN_PRIMITIVE_CACHE_CAPACITY="1024", LRU_CACHE_CAPACITY="1024")

import torch
from torch import Tensor

ROWS = range(32, 32 + 4 * 64, 4)
SHAPES = ((384, 1536), (1536, 384), (384, 16), (16, 1536), (576, 1536))
"""Inner and outer widths: maps of MiniLM and SmolLM2, and LoRA's."""


def main() -> None:
    """Measure and print."""
    source, target = (torch.randn(512 * 1536).bfloat16() for _ in range(2))
    for inner, outer in SHAPES:
        weight = torch.randn(inner, outer).bfloat16()

        def product(rows: int, weight: Tensor = weight) -> None:
            n, m = weight.shape
            torch.mm(source[: rows * n].view(rows, n), weight, out=target[: rows * m].view(rows, m))

        print(f"[N, {inner}] x [{inner}, {outer}]  {grown(product):.2f} MiB each")


def grown(product: Callable[[int], None]) -> float:
    """MiB that stay for each number of rows."""
    product(500)
    before = anonymous()
    for rows in ROWS:
        product(rows)
    return (anonymous() - before) / len(ROWS)


def anonymous() -> float:
    """MiB of this process that are no file's pages."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"))
    return int(found[1]) / 1024 if found else float("nan")


if __name__ == "__main__":
    main()
