"""How often the diagnosis names a planted fault, and how often it cries wolf: real small runs, recorded and judged.

    python bench/diagnosis.py record --seeds 5:15 --out runs/diagnosis     # about 20 minutes of one core
    python bench/diagnosis.py judge --seeds 5:15 --out runs/diagnosis      # seconds: the table of docs/diagnosis.md

``record`` trains every condition of ``diagnosis_jobs.py`` with every seed and keeps the log as JSON; runs that are
there already are not made again. ``judge`` runs the detectors over the recordings as they run beside a live run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diagnosis_jobs import CONDITIONS, Condition, recipe

from burnish.core.config import build
from burnish.core.errors import TrainingStopped
from burnish.core.events import Evaluated, Event, Measured, Stepped
from burnish.core.files import finite
from burnish.diagnose.detectors import first_alarms
from burnish.diagnose.runs import run_facts
from burnish.diagnose.series import Series
from burnish.train.config import RunConfig, expand
from burnish.train.folder import RunFolder
from burnish.train.loop import train
from burnish.train.run import make_job
from burnish.train.score import Scorer
from burnish.train.setup import set_up
from burnish.train.state import TrainState


class Collector:
    """Keeps what a run's log would hold."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stepped):
            self.lines.append({"kind": "train", "step": event.step, "epoch": event.epoch, **event.metrics})
        elif isinstance(event, Measured):
            self.lines.append({"kind": "gradients", "step": event.step, **event.values})
        elif isinstance(event, Evaluated):
            self.lines.append({"kind": "validation", "step": event.step, **event.metrics})


def record_one(condition: Condition, seed: int) -> dict[str, Any]:
    """Train one run and return its recipe, what is known of it, and its log."""
    with tempfile.TemporaryDirectory() as folder:
        values = recipe(condition, seed, Path(folder))
        config = build(RunConfig, expand(values))
        setup = set_up(config)
        torch.set_num_threads(1)
        scorer = Scorer(setup, ()).ready()
        job = make_job(setup, scorer, RunFolder(Path(folder) / "run"))
        # the guards of the first updates would stop some of these runs before the detectors see them
        nothing = {name: () for name, _ in setup.trainable}
        job = replace(job, save=lambda state: Path(folder), keep=lambda *a: None, watched=nothing)
        condition.plant(setup, job)
        collector, stopped = Collector(), ""
        try:
            if train(job, TrainState(), [collector]).reason == "interrupted":
                raise KeyboardInterrupt  # half a run is no recording
        except TrainingStopped as stop:
            stopped = stop.what
        model, data = setup.describe(), {"splits": {"train": {"rows": len(setup.prepared.train)}}}
    kept = {key: model[key] for key in ("updates", "task", "chance_loss", "learning_rate") if key in model}
    return {
        "condition": condition.name, "seed": seed, "recipe": config.model_dump(mode="json"), "model": kept,
        "data": data, "stopped": stopped, "log": collector.lines,
    }  # fmt: skip


def place(out: Path, condition: Condition, seed: int) -> Path:
    """The file of a recording."""
    name = "".join(c if c.isalnum() else "-" for c in condition.name).replace("--", "-")
    return out / f"{name}.{seed}.json"


def record(arguments: argparse.Namespace) -> None:
    """Train what is not there yet, until the time is over."""
    began = time.monotonic()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for seed in seeds(arguments.seeds):
        for condition in chosen(arguments):
            path = place(arguments.out, condition, seed)
            if path.exists() and not arguments.force:
                continue
            if time.monotonic() - began > arguments.minutes * 60:
                print("time is over; call again to go on")
                return
            start = time.monotonic()
            found = record_one(condition, seed)
            path.write_text(json.dumps(finite(found)), encoding="utf-8")
            losses = [line["loss"] for line in found["log"] if line["kind"] == "train"]
            shown = f"{losses[0]:.3f} -> {losses[-1]:.3f}" if losses else "no update"
            print(
                f"{seed:2} {condition.name:40} {time.monotonic() - start:5.1f} s  {shown}  {found['stopped']}",
                flush=True,
            )


def judge(arguments: argparse.Namespace) -> None:
    """Run the detectors over the recordings, as beside a live run, and print the table of `docs/diagnosis.md`."""
    hits, rows, healthy, false = 0, 0, 0, 0
    print("| condition | runs | named | first alarm, median update | also said |\n|---|---|---|---|---|")
    for condition in chosen(arguments):
        found = [judged(path) for s in seeds(arguments.seeds) if (path := place(arguments.out, condition, s)).exists()]
        if not found:
            continue
        if not condition.codes:
            wrong = [alarms for alarms, _ in found if alarms]
            healthy, false = healthy + len(found), false + len(wrong)
            said = Counter(code for alarms in wrong for code in alarms)
            print(f"| {condition.name} | {len(found)} | {len(wrong)} alarmed | | {listed(said)} |")
            continue
        first = [
            min((a[code], total) for code in condition.codes if code in a)
            for a, total in found
            if set(a) & set(condition.codes)
        ]
        hits, rows = hits + len(first), rows + len(found)
        at = f"{statistics.median(step for step, _ in first):.0f} of {first[0][1]}" if first else "–"
        quarter = sum(step <= total / 4 for step, total in first)
        early = f", {quarter} in the first quarter" if condition.early else ""
        also = Counter(code for alarms, _ in found for code in alarms if code not in condition.codes)
        print(f"| {condition.name} | {len(found)} | {len(first)} | {at}{early} | {listed(also)} |")
    print(
        f"\nrecall {hits}/{rows} = {hits / max(1, rows):.1%}; "
        f"false alarms {false}/{healthy} = {false / max(1, healthy):.1%}"
    )


def judged(path: Path) -> tuple[dict[str, int], int]:
    """The alarms of a recording, each with the update after which it was raised first, and the updates in all."""
    kept = json.loads(path.read_text(encoding="utf-8"))
    series = Series.of(kept["log"], run_facts(kept["recipe"], kept["model"], kept["data"]))
    return first_alarms(series, every=2), int(kept["model"]["updates"])


def listed(counted: Counter[str]) -> str:
    """Codes with how often they came."""
    return ", ".join(f"`{code}` {count}" for code, count in counted.most_common())


def chosen(arguments: argparse.Namespace) -> Iterator[Condition]:
    """The conditions that are asked for."""
    return (c for name, c in CONDITIONS.items() if not arguments.only or arguments.only in name)


def seeds(text: str) -> range:
    """``5:15`` as a range."""
    first, _, behind = text.partition(":")
    return range(int(first), int(behind or int(first) + 1))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "judge"))
    parser.add_argument(
        "--seeds", default="5:15", help="first and behind the last; 0:5 were used to set the thresholds"
    )
    parser.add_argument("--only", default="", help="conditions whose name holds this")
    parser.add_argument("--out", type=Path, default=Path("runs/diagnosis"))
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--force", action="store_true", help="record again what is there")
    arguments = parser.parse_args()
    {"record": record, "judge": judge}[arguments.what](arguments)


if __name__ == "__main__":
    main()
