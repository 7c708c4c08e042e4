"""How much of the time do the products of matrices alone take? Burnish's updates and their products in turn, A B A B.

    python bench/ceiling.py --data rows.json             # the job `lora` of `burnish bench`
    python bench/ceiling.py --job classify-lora

A pass over the job's updates is recorded: every product that PyTorch is asked for, with its shapes and strides, the
weights themselves, and what else it reads replaced by numbers of the same shape. Then updates and the bare products are
timed in turn. The products' tokens per second are the ceiling of this arithmetic on this machine, if nothing else took
any time. Narrow products of LoRA, which kernels compute, are recorded as PyTorch's. Products inside attention are not
among them where compiled kernels compute them, so the ceiling is a little too high.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from burnish.benchmarks.process import SCRIPTS
from burnish.benchmarks.runner import Plan, choose, prepare
from burnish.core.config import build
from burnish.core.events import Event, Stepped
from burnish.ops.native import low_rank
from burnish.plan.ledger import PRODUCTS
from burnish.train.config import RunConfig
from burnish.train.folder import RunFolder
from burnish.train.job import Cadence, Job
from burnish.train.loop import train
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import Setup, set_up
from burnish.train.state import TrainState

UNTIMED = 1
"""First updates of a pass that are left out: they rehearse and make memory."""
Product = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", default="lora", help="`lora`, `full`, `classify-lora` or `classify-full`")
    parser.add_argument("--data", type=Path, help="a JSON list of rows; tweets of the demo without it")
    parser.add_argument("--rows", type=int, help="rows to train on; the job's own number without it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="burnish-ceiling-") as folder:
        found = measure(arguments, Path(folder))
    print(json.dumps(found) if arguments.json else shown(found))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Tokens per second of updates and of their products, round by round."""
    job, _ = choose(arguments.job, ["burnish"])
    rows = arguments.rows or job.rows
    prepare(Plan(job, (), data=arguments.data, rows=rows, held_out=1), folder)
    _, updates = updates_of(folder)
    recorder = Recorder({p.untyped_storage().data_ptr() for p in updates.model.parameters()})
    products = recorded(updates, recorder)
    tokens = sum(int(b["attention_mask"].sum()) if "attention_mask" in b else b["input_ids"].numel()
                 for step in range(UNTIMED, len(updates.updates)) for b in updates.updates[step])  # fmt: skip
    rounds = []
    replayed(products)
    for _ in range(arguments.rounds):
        whole, bare = trained(updates), replayed(products)
        rounds.append({"updates": tokens / whole, "products": tokens / bare, "share": bare / whole})
    operations = sum(work(args) for _, args, _ in products)
    best = max(one["products"] for one in rounds)
    return {"job": job.name, "tokens": tokens, "rounds": rounds, "operations per token": operations / tokens,
            "operations per second": best * operations / tokens}  # fmt: skip


def updates_of(folder: Path) -> tuple[Setup, Job]:
    """The job of `burnish bench`, as its own script prepares it."""
    sys.path.insert(0, str(SCRIPTS))
    from measure import read_job
    from ours import recipe
    from ours_classes import recipe_of_classes

    recipes = {"completion": recipe, "classification": recipe_of_classes}
    shared = read_job(folder)
    setup: Setup = set_up(build(RunConfig, recipes[shared["kind"]](folder, shared)))
    made = make_job(setup, Scorer(setup, []), RunFolder(folder / "run"))
    return setup, replace(made, cadence=Cadence(), evaluate=lambda: {"loss": 0.0}, save=lambda state: Path("nowhere"))


class Recorder(TorchDispatchMode):
    """Keeps the products that run while it is entered."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.products = weights, list[Product]()
        self.stand_ins: dict[tuple[Any, ...], Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and remember it if it is a product."""
        result = func(*args, **(kwargs or {}))
        if func._schema.name in PRODUCTS:
            self.products.append((func, tuple(map(self.kept, args)), dict(kwargs or {})))
        return result

    def kept(self, value: Any) -> Any:
        """A weight itself, for it lies where it lies; anything else as numbers of the same form."""
        if not isinstance(value, Tensor) or value.untyped_storage().data_ptr() in self.weights:
            return value.detach() if isinstance(value, Tensor) else value
        key = (tuple(value.shape), value.stride(), value.dtype)
        if key not in self.stand_ins:
            size = 1 + sum((n - 1) * step for n, step in zip(*key[:2], strict=True))  # steps of 0 repeat a number
            self.stand_ins[key] = (torch.randn(size) / 8).to(value.dtype).as_strided(*key[:2])
        return self.stand_ins[key]


def recorded(job: Job, recorder: Recorder) -> list[Product]:
    """The products of every timed update."""

    def heard(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == UNTIMED:
            recorder.__enter__()

    with mock.patch.object(low_rank, "usable", return_value=False):  # kernels are nothing that PyTorch is asked for
        train(job, TrainState(), [heard])
    recorder.__exit__(None, None, None)
    return recorder.products


def trained(job: Job) -> float:
    """Seconds of the timed updates."""
    begun = [0.0]

    def heard(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == UNTIMED:
            begun[0] = time.perf_counter()

    train(job, TrainState(), [heard])
    return time.perf_counter() - begun[0]


def replayed(products: Sequence[Product]) -> float:
    """Seconds of the products alone, in the order in which they came."""
    begun = time.perf_counter()
    with torch.no_grad():
        for func, args, kwargs in products:
            func(*args, **kwargs)
    return time.perf_counter() - begun


def work(args: Sequence[Any]) -> int:
    """Operations of a product of [.., N, K] and [.., K, M]: ``2 N K M`` for each."""
    left, right = [value for value in args if isinstance(value, Tensor)][-2:]
    return 2 * left.numel() * right.shape[-1]


def shown(found: dict[str, Any]) -> str:
    """The medians, with every round."""
    lines = [f"{found['job']}, {found['tokens']:,} tokens"]
    for name in ("updates", "products"):
        values = [one[name] for one in found["rounds"]]
        each = ", ".join(f"{value:,.0f}" for value in values)
        lines.append(f"{name:9} {statistics.median(values):,.0f} tokens/s ({each})")
    share = statistics.median(one["share"] for one in found["rounds"])
    lines.append(f"{share:.0%} of the time is products, which do {found['operations per second'] / 1e9:,.0f} GFLOP/s, "
                 f"{found['operations per token'] / 1e9:.2f} for each token")  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main()
