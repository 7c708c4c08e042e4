"""Memory of a device and what it sends, for models past this machine: by engine and number of GPUs, on shapes alone.

    python bench/scaling.py                          # Markdown, as in docs/scaling.md; a minute or two, no GPU
    python bench/scaling.py --models llama-8b --length 2048

Each model is traced once (`burnish plan`): bf16, gradient checkpointing, one row of ``--length`` tokens a device, fp32
weights where all are trained. How engines divide it is counted by `plan/engines.py`, what they send by
`plan/traffic.py`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from burnish.forecast.outlook import of_shape
from burnish.forecast.sketch import blank
from burnish.forecast.trace import footprint_of
from burnish.plan.engines import Engine, EngineName
from burnish.plan.footprint import Footprint
from burnish.plan.memory import GPU_OVERHEAD, ROOM, Overhead, memory_plan
from burnish.plan.presets import preset
from burnish.plan.traffic import sent

GIB = 1 << 30
ENGINES: tuple[EngineName, ...] = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
METHODS = ("full", "lora")


def main() -> None:
    """Print a table for each model and method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="llama-8b,llama-70b,llama-405b")
    parser.add_argument("--devices", default="8,64,1024")
    parser.add_argument("--length", type=int, default=4096, help="tokens of the row of each device")
    parser.add_argument("--memory", type=float, default=80, help="GiB of a device")
    options = parser.parse_args()
    devices = [int(one) for one in options.devices.split(",")]
    for model in options.models.split(","):
        for method in METHODS:
            whole = traced(model, method, options.length)
            print("\n".join(table(model, method, whole, devices, options.memory)), flush=True)


def traced(model: str, method: str, length: int) -> Footprint:
    """What an undivided run with one row in a micro-batch holds."""
    settings = [
        f"adapter.method={method}",
        f"data.render.max_length={length}",
        "train.batch_size=1",
        "train.precision=bf16",
        "train.gradient_checkpointing=true",
        f"batches.micro_batch_tokens={length}",
    ]
    return footprint_of(blank(of_shape(model, settings), preset(model), "cuda"))


def table(model: str, method: str, whole: Footprint, devices: list[int], memory: float) -> Iterator[str]:
    """A line for each engine: GiB of a device, whether that fits, and GiB that it sends in an update."""
    yield f"\n**{model}, {method}** ({whole.trained:,} trained numbers, {whole.weights / GIB:,.0f} GiB of weights)\n"
    head = " | ".join(f"{n:,} GPUs: GiB | sent" for n in devices)
    yield f"| engine | {head} |"
    yield "|---" + "|--:|--:" * len(devices) + "|"
    for engine in ENGINES:
        cells = []
        for n in devices:
            peak = memory_plan(whole, Overhead(GPU_OVERHEAD), Engine(engine, n)).peak / GIB
            shown = f"{peak:,.0f}" if peak >= 10 else f"{peak:.1f}"
            fits = peak <= ROOM * memory
            cells += [f"**{shown}**" if fits else shown, f"{sent(whole, Engine(engine, n)) / GIB:,.1f}"]
        yield f"| `{engine}` | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
