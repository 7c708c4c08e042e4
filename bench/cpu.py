"""LoRA on a processor, Burnish against its peers: in turn, in separate processes, on the same rows.

``make bench`` calls this. Each contender prints one JSON line; the table gives minimum, median and maximum over the
rounds, and the ratio of the medians to Burnish's.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# An allocator that keeps what it has mapped; Burnish sets this for itself.
WARM = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=67108864"


@dataclass(frozen=True)
class Contender:
    """One way of doing the job.

    Attributes:
        name: As it stands in the table.
        command: Script and arguments; the folder of the job is added.
        peer: Whether it runs in the environment of the peers.
        warm: Whether the allocator is told to keep its memory from outside.
    """

    name: str
    command: tuple[str, ...]
    peer: bool = True
    warm: bool = False


CONTENDERS = (
    Contender("Burnish", ("ours.py",), peer=False),
    Contender(
        "TRL + PEFT, tuned (bf16, 1 x 8, warm allocator)",
        ("peer_trl.py", "--dtype", "bfloat16", "--batch", "1", "--accumulation", "8"),
        warm=True,
    ),
    Contender("TRL + PEFT, bf16, 1 x 8", ("peer_trl.py", "--dtype", "bfloat16", "--batch", "1", "--accumulation", "8")),
    Contender("TRL + PEFT, as documented (fp32, batch 8)", ("peer_trl.py",)),
)


def run(contender: Contender, folder: Path, python: str) -> dict[str, Any]:
    """One process of one contender; a failure is kept with its last line."""
    environment = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1"}
    if contender.warm:
        environment["GLIBC_TUNABLES"] = WARM
    script, *rest = contender.command
    command = [python if contender.peer else sys.executable, str(HERE / script), str(folder), *rest]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if answer.returncode:
        return {"failed": (answer.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(answer.stdout.strip().splitlines()[-1])


def table(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    """The results as lines of Markdown."""
    lines = [
        "| | tokens/s: min, median, max | ratio | peak memory | held-out loss | start-up |",
        "|---|---|---|---|---|---|",
    ]
    first = next(iter(results.values()))
    ours = statistics.median(r["tokens_per_second"] for r in first) if "failed" not in first[0] else float("nan")
    for name, rounds in results.items():
        good = [r for r in rounds if "failed" not in r]
        if not good:
            lines.append(f"| {name} | did not run: {rounds[0]['failed'][:120]} | | | | |")
            continue
        rates = sorted(r["tokens_per_second"] for r in good)
        middle = statistics.median(rates)
        peak, loss, start = (
            statistics.median(r[key] for r in good) for key in ("peak_bytes", "held_out_loss", "startup_seconds")
        )
        lines.append(
            f"| {name} | {rates[0]:.0f}, {middle:.0f}, {rates[-1]:.0f} | {ours / middle:.2f} | {peak / 2**30:.1f} GiB "
            f"| {loss:.3f} | {start:.1f} s |"
        )
    return lines


def main() -> None:
    """Measure, print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="a JSON list of rows with instruction, input and output")
    parser.add_argument("--peers", default=str(HERE / ".venv/bin/python"), help="Python of the peers' environment")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slow-rounds", type=int, default=1, help="rounds of the last contender, the slowest")
    parser.add_argument("--out", type=Path, default=HERE / "results-cpu.json")
    arguments = parser.parse_args()
    results: dict[str, list[dict[str, Any]]] = {c.name: [] for c in CONTENDERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, str(HERE / "rows.py"), str(arguments.data), str(folder)], check=True)
        for number in range(arguments.rounds):
            for contender in CONTENDERS:
                if contender is CONTENDERS[-1] and number >= arguments.slow_rounds:
                    continue
                result = run(contender, folder, arguments.peers)
                results[contender.name].append(result)
                print(f"round {number + 1}  {contender.name}: {result.get('tokens_per_second', result)}", flush=True)
    machine = {"system": platform.platform(), "cores": os.cpu_count()}
    arguments.out.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    print("\n".join(table(results)))


if __name__ == "__main__":
    main()
