"""Predicted against measured time of whole runs, each in a process of its own, on a machine that does nothing else.

    python bench/time_plan.py                          # every job, twice in turn
    python bench/time_plan.py --jobs encoder --turns 1

For each job `burnish plan RECIPE --time` calibrates for half a minute at most and predicts the run from its start to
its end; then the run is made and its process is timed from outside. A turn does both for every job.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

COMMAND = "from burnish.cli.main import main; main()"
JOBS = {
    "encoder": ["sentiment-encoder"],
    "encoder, full tuning": ["sentiment-encoder", "adapter=full", "train.learning_rate=5e-5", "train.num_epochs=2"],
    "decoder": ["quickstart", "data.train_rows=500", "data.split.test=300", "train.num_epochs=1"],
    "decoder, prompts": ["quickstart", "data.train_rows=300", "data.split.test=200", "train.num_epochs=1",
                         "adapter={method: prompt}"],
}  # fmt: skip


def command(*arguments: str) -> str:
    """What a command of Burnish prints, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"burnish {' '.join(arguments)} failed:\n{done.stderr}")
    return done.stdout


def main() -> None:
    """Measure, and print a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--parts", action="store_true", help="print the predicted parts too")
    options = parser.parse_args()
    errors: list[float] = []
    print("| job | predicted, s | measured, s | off | calibration, s |\n|---|--:|--:|--:|--:|", flush=True)
    with tempfile.TemporaryDirectory(prefix="burnish-time-") as place:
        for _ in range(options.turns):
            for job in options.jobs:
                recipe = [*JOBS[job], f"output={Path(place) / 'runs'}"]
                plan = json.loads(command("plan", *recipe, "--time", "--json"))["time"]
                began = time.perf_counter()
                command("run", *recipe, "--force", "--json")
                seconds = time.perf_counter() - began
                errors.append(plan["seconds"] / seconds - 1)
                took = f"{plan['calibration_seconds']:.0f}"
                cells = [job, f"{plan['seconds']:.0f}", f"{seconds:.0f}", f"{errors[-1]:+.1%}", took]
                print(f"| {' | '.join(cells)} |", flush=True)
                if options.parts:
                    print({name: round(value, 1) for name, value in plan["parts"].items()}, flush=True)
    print(f"\nmedian error {median(map(abs, errors)):.1%}, worst {max(map(abs, errors)):.1%}")


if __name__ == "__main__":
    main()
