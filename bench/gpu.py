"""Tuning on a GPU: random weights in real shapes, Burnish's own loop, against TRL with PEFT and liger-kernel.

    python bench/gpu.py                                                      # everything, on the first GPU
    python bench/gpu.py --device cpu --shapes tiny --tokens 128 --steps 2    # tries the script itself

For the peer, trl, peft and liger-kernel must be installed beside Burnish. Nothing is downloaded: a model is made from
its configuration on the device. An update is one row of so many random tokens. Reported are tokens per second, and the
share that the model's arithmetic has of the rate at which the same card was measured, in the same process, to multiply
large bf16 matrices. With N the parameters of all linear maps, the head among them, L layers, H heads of width E and T
tokens in a row, a token costs

    full tuning    6 N   (2 N forward, 2 N for the gradient of the inputs, 2 N for that of the weights)
    LoRA           4 N + 6 N_lora   (the frozen weights have no gradient)
    attention      + 6 L H E T   (forward two products of a causal half, 2 L H E T; backward twice that)

Activations that are made again are not counted: recomputing lowers the share. Where memory runs out, the next of the
ways in ``WAYS`` is tried, and the table says which one fitted.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from gpu_job import SHAPES, Measured, Shape, ours

from burnish.core.errors import UserError, out_of_memory
from burnish.models.config import ModelConfig
from burnish.ops.machine import product_rate

WAYS: tuple[bool | str, ...] = (False, "selective", True)
"""Gradient checkpointing: none, selective, whole; the first that fits into memory is measured."""

METHODS = ("lora", "qlora", "full")
PEER = ("trl", "peft", "liger_kernel")


@dataclass(frozen=True)
class Result:
    """One line of the table: what was measured, or why nothing was."""

    shape: str
    method: str
    tokens: int
    contender: str
    recomputes: bool | str = False
    tokens_per_second: float = 0.0
    share: float = 0.0
    peak_bytes: int = 0
    failed: str = ""


def flops_per_token(shape: Shape, method: str, linear: int, trained: int, tokens: int) -> float:
    """The formula at the top of this file."""
    products = 6 * linear if method == "full" else 4 * linear + 6 * trained
    return products + 6 * shape.layers * shape.heads * shape.head_width * tokens


def missing_peer() -> str:
    """Why the peer cannot be measured here, or the empty string."""
    for name in PEER:
        try:
            importlib.import_module(name)
        except Exception as error:  # an import of theirs can fail in any way
            return f"{name} does not import: {type(error).__name__}: {error}"
    return ""


def unavailable(contender: str, method: str) -> str:
    """Why this pair cannot be measured at all, or the empty string."""
    if contender == "TRL + PEFT + liger":
        return missing_peer() or ("not measured for the peer" if method == "qlora" else "")
    if method == "qlora" and "quantization" not in ModelConfig.model_fields:
        return "not available yet: there is no k-bit base"
    return ""


def peer(*arguments: Any) -> Measured:
    """The peer's job; its libraries are imported only here."""
    return importlib.import_module("gpu_peer").theirs(*arguments)  # type: ignore[no-any-return]


CONTENDERS: dict[str, Callable[..., Measured]] = {"Burnish": ours, "TRL + PEFT + liger": peer}


def measure(
    contender: str, name: str, method: str, tokens: int, steps: int, device: torch.device, rate: float
) -> Result:
    """One contender on one job, with the first way of recomputing that fits."""
    why = unavailable(contender, method)
    for way in () if why else WAYS:
        try:
            found = CONTENDERS[contender](SHAPES[name], method, tokens, steps, device, way)
        except (RuntimeError, MemoryError, UserError) as error:
            why = (str(error).strip().splitlines() or [type(error).__name__])[0]
            if not out_of_memory(error):
                break
            why = "out of memory"
        else:
            cost = flops_per_token(SHAPES[name], method, found.linear, found.trained, tokens)
            share = found.tokens_per_second * cost / rate
            done = {"recomputes": way, "share": share, "peak_bytes": found.peak_bytes}
            return Result(name, method, tokens, contender, tokens_per_second=found.tokens_per_second, **done)
        finally:
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return Result(name, method, tokens, contender, failed=why)


def table(results: Sequence[Result]) -> list[str]:
    """The results as lines of Markdown."""
    lines = [
        "| shape | method | tokens | | tokens/s | share of product rate | peak memory | recomputes |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        job = f"| {r.shape} | {r.method} | {r.tokens:,} | {r.contender} |"
        found = f" {r.tokens_per_second:,.0f} | {r.share:.1%} | {r.peak_bytes / 2**30:.2f} GiB | {r.recomputes} |"
        lines.append(job + (f" {r.failed[:120]} | | | |" if r.failed else found))
    return lines


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["0.5B", "1.5B", "8B"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--tokens", nargs="+", type=int, default=[2048, 8192, 32768])
    parser.add_argument("--steps", type=int, default=8, help="updates; the first half warms up")
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results-gpu.json")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no GPU here; `--device cpu --shapes tiny --tokens 128 --steps 2` tries the script")
    rate = product_rate(torch.bfloat16 if device.type == "cuda" else torch.float32, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "processor"
    print(f"{name}: {rate / 1e12:.2f} TFLOP/s in large products", flush=True)
    results = []
    for shape in arguments.shapes:
        for method in arguments.methods:
            for tokens in arguments.tokens:
                for contender in arguments.contenders:
                    results.append(measure(contender, shape, method, tokens, arguments.steps, device, rate))
                    print("\n".join(table(results[-1:])[2:]), flush=True)
    written = {
        "device": name,
        "torch": torch.__version__,
        "product_rate": rate,
        "results": [asdict(r) for r in results],
    }
    arguments.out.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
