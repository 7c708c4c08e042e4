"""What it costs to measure and to prevent forgetting: updates with and without each term, and the share of a whole run.

    python bench/forgetting_costs.py terms        # the quickstart's updates, each term beside none, in turns
    python bench/forgetting_costs.py retention    # the quickstart as it is: how long the retention set is scored

`terms` makes the same updates on the same rows in a process of its own for each arm, in turns (A B C A B C). An arm's
ratio is taken turn by turn: its seconds over those of the plain arm, all updates behind the first ``WARM``. `retention`
takes the time of each scoring (before, while training, after) within a run, and that of the whole run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from burnish.cli.main import call
from burnish.core.files import read_lines
from burnish.train.retention import Retention

WARM = 3
PLAIN = "plain"
TERMS = {
    PLAIN: "regularizers=[]",
    "l2_sp": "regularizers=[l2_sp]",
    "ewc": "regularizers=[{kind: ewc, fisher: factored}]",
    "distill": "regularizers=[distill]",
    "distill on task": "regularizers=[{kind: distill, on: task}]",
}
SHORT = (
    "data.train_rows=320",
    "data.split.validation=8",
    "data.split.test=8",
    "train.num_epochs=1",
    "evaluate.retention=none",
    "evaluate.samples=0",
    "evaluate.every_steps=1000",
)


def terms(arguments: argparse.Namespace) -> None:
    """Seconds of updates with each term, over those without."""
    chosen = [PLAIN, *(name for name in arguments.arms.split(",") if name != PLAIN)]
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory(prefix="burnish-costs-") as place:
        for _ in range(arguments.turns):
            for name in chosen:
                child("run", "quickstart", *SHORT, TERMS[name], f"output={place}", "--force")
                lines = read_lines(Path(place) / "quickstart/metrics.jsonl")
                seconds[name].append(statistics.mean([x["seconds"] for x in lines if x["kind"] == "train"][WARM:]))
                print(f"{name}: {seconds[name][-1]:.4f} s an update", file=sys.stderr, flush=True)
    print("| term | seconds an update | times the plain update: median (least to most) |\n|---|---|---|")
    for name in chosen:
        ratios = [one / plain for one, plain in zip(seconds[name], seconds[PLAIN], strict=True)]
        spread = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        print(f"| {name} | {statistics.median(seconds[name]):.4f} | {'' if name == PLAIN else spread} |")


def child(*command: str) -> None:
    """A command of Burnish in a process of its own."""
    code = "from burnish.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", code, *command], check=True, stdout=subprocess.DEVNULL)


def retention(arguments: argparse.Namespace) -> None:
    """Seconds of each scoring of the retention set, and of the whole run."""
    spent: dict[str, list[float]] = {"before": [], "between": [], "after": []}
    before, after, listener = Retention.before, Retention.after, Retention.listener

    def heard(self: Retention, callbacks: Any) -> Callable[[Any], Any]:
        hear = listener(self, callbacks)
        timed_hear = timed(hear, spent["between"])
        return lambda event: timed_hear(event) if self._due(event) else hear(event)

    Retention.before = timed(before, spent["before"])  # type: ignore[method-assign]
    Retention.after = timed(after, spent["after"])  # type: ignore[method-assign]
    Retention.listener = heard  # type: ignore[method-assign, assignment]
    with tempfile.TemporaryDirectory(prefix="burnish-costs-") as place:
        began = time.perf_counter()
        code = call(["run", "quickstart", *arguments.overrides, f"output={place}"])
        whole = time.perf_counter() - began
    if code:
        raise SystemExit(code)
    sums = {name: sum(times) for name, times in spent.items()}
    share = sum(sums.values()) / whole
    print("MEASURED", json.dumps({**sums, "scorings between": len(spent["between"]), "whole": whole, "share": share}))


def timed(function: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """The function, each of whose calls leaves its time."""

    def called(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return function(*given, **named)
        finally:
            seconds.append(time.perf_counter() - began)

    return called


PARTS = {"terms": terms, "retention": retention}


def main() -> None:
    """Measure one of the two."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--arms", default=",".join(TERMS), help=f"of {', '.join(TERMS)}")
    parser.add_argument("overrides", nargs="*", help="changes of the quickstart, for `retention`")
    arguments = parser.parse_intermixed_args()
    PARTS[arguments.part](arguments)


if __name__ == "__main__":
    main()
