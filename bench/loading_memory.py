"""The memory that each of several processes takes to load a model which they share out, and to train it.

    python bench/loading_memory.py                       # 1.1 GB in fp32, two processes, every arm
    python bench/loading_memory.py --train               # and the memory of one update, scoring and hand-over behind it
    python bench/loading_memory.py --layers 4 --width 512 --arms naive fsdp2/lora

A random model is saved in bf16, in files of 100 MB, and trained in fp32. Counted is what only the process itself holds
(`RssAnon` of `/proc/self/status`, sampled every 2 ms, above what it held after its imports): pages of mapped files lie
in memory once for all processes, and the kernel takes them back when it needs room. While it loads, every process ends
itself as soon as it holds more than ``--limit`` times the model, as the kernel ends one in a control group.

`naive` is `from_pretrained` and `fully_shard` in each process, without Burnish and without a forward pass. The other
arms are Burnish's, by engine and adapter: everything up to the first update, with the checks of model and adapters.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tests.support.caches import own_cache
from tests.support.recipes import sentiment_rows, write_rows
from tests.support.tiny import tiny_tokenizer
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import LlamaConfig, LlamaForCausalLM

from burnish.core.config import build
from burnish.train import run
from burnish.train.config import RunConfig
from burnish.train.distributed.group import Processes, close
from burnish.train.distributed.launch import meeting_at, open_store
from burnish.train.setup import set_up

OVER = 77
"""Exit code of a process that went over its limit."""
ARMS = ("naive", "fsdp2/lora", "fsdp2/full", "zero3/lora")


def held() -> int:
    """Bytes that only this process holds."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


class Watch(threading.Thread):
    """Follows what the process holds, and ends it when that is too much.

    Args:
        limit: Bytes above what is held now.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(daemon=True)
        self.base, self.limit, self.peak = held(), limit, 0
        self.start()

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, held() - self.base)
            if self.peak > self.limit:
                print(f"\n{json.dumps({'over': self.peak})}", flush=True)  # a bar may stand on the line
                os._exit(OVER)
            time.sleep(0.002)


def save_model(folder: Path, layers: int, width: int) -> int:
    """A random Llama in bf16 with its tokenizer; bytes of its weights in fp32."""
    sizes = {"hidden_size": width, "intermediate_size": 3 * width, "num_hidden_layers": layers}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False}
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, **heads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="100MB")
    tokenizer.save_pretrained(folder)
    return 2 * sum(p.nbytes for p in model.parameters())


def recipe(home: Path, engine: str, adapter: str) -> dict[str, Any]:
    """One update of a short run."""
    return {
        "name": f"{engine}-{adapter}",
        "output": str(home / "runs"),
        "model": str(home / "model"),
        "data": {"train": str(home / "rows.jsonl"), "split": {"validation": 4, "test": 4}},
        "adapter": {"method": adapter},
        "train": {"batch_size": 4, "max_steps": 1, "precision": "fp32"},
        "batches": {"micro_batch_tokens": 128},
        "evaluate": {"samples": 0, "retention": "none"},
        "distributed": engine,
    }


def naive(home: Path) -> None:
    """What the documentation of PyTorch shows for a small model."""
    group = Processes(5)
    model = LlamaForCausalLM.from_pretrained(home / "model", dtype=torch.float32)
    mesh = init_device_mesh("cpu", (group.size,))
    for layer in [*model.model.layers, model]:
        fully_shard(layer, mesh=mesh)


def work(home: Path, arm: str, limit: int, train: bool) -> None:
    """One arm in one process: prints what it held at most, to load and in all."""
    watch, loaded = Watch(limit), []

    def setting_up(*given: Any, **named: Any) -> Any:
        made = set_up(*given, **named)
        loaded.append(watch.peak)
        watch.limit = 1 << 62
        if not train:
            raise StopIteration
        return made

    if arm == "naive":
        naive(home)
    else:
        run.set_up = setting_up
        run.read_back = lambda folder: []  # what a fresh process holds is not counted, and tests hold it
        with suppress(StopIteration):
            run.start_run(build(RunConfig, recipe(home, *arm.split("/"))), force=True)
    found = {"loading": loaded[0] if loaded else watch.peak, "peak": watch.peak}
    print(f"\n{json.dumps(found)}", flush=True)
    close()


def measured(home: Path, arm: str, processes: int, limit: int, train: bool = False) -> list[dict[str, int]]:
    """What every process of an arm said."""
    store = open_store()
    shared = {**meeting_at(store), "WORLD_SIZE": str(processes), "OMP_NUM_THREADS": "1"}
    root = Path(__file__).parents[1]
    path = os.pathsep.join([str(root / "src"), str(root), os.environ.get("PYTHONPATH", "")])
    shared |= {"PYTHONPATH": path, "LOCAL_WORLD_SIZE": str(processes)}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, "--work", str(home), arm, str(limit), *["train"][: int(train)]],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = []
    for one in running:
        out, err = one.communicate(timeout=900)
        lines = [line for line in out.splitlines() if line.startswith("{")]
        if one.returncode not in (0, OVER, -9) or not lines:
            raise SystemExit(f"{arm} failed with {one.returncode}: {out[-2000:]}{err[-3000:]}")
        said.append(json.loads(lines[-1]))
        if one.returncode == OVER:
            for other in running:
                other.kill()
            return [said[-1]]
    return said


def main() -> None:
    """All arms, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", nargs="+", help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--limit", type=float, default=0.9, help="times the model; 0 for none")
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--arms", nargs="+", default=list(ARMS))
    options = parser.parse_args()
    if options.work:
        work(Path(options.work[0]), options.work[1], int(options.work[2]), options.work[3:] == ["train"])
        return
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        size = save_model(home / "model", options.layers, options.width)
        write_rows(home / "rows.jsonl", sentiment_rows(16))
        os.environ["BURNISH_CACHE"] = str(own_cache(home / "cache"))
        print(f"model {size / 1e6:,.0f} MB in fp32, {options.processes} processes")
        for arm in options.arms:
            limit = int(options.limit * size) if options.limit else 1 << 62
            for rank, said in enumerate(measured(home, arm, options.processes, limit, options.train)):
                if "over" in said:
                    print(f"{arm:12} ended at its limit of {limit / 1e6:,.0f} MB")
                else:
                    told = [f"{k} {said[k] / 1e6:7,.0f} MB ({said[k] / size:4.0%})" for k in ("loading", "peak")]
                    print(f"{arm:12} process {rank}: {', '.join(told)}", flush=True)


if __name__ == "__main__":
    main()
