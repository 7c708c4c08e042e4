"""Forgetting on two tasks that have little in common: what is lost without any means, and what each means keeps.

python recipes/forgetting/run.py --seeds 3              # both tasks, every means (`burnish tradeoff`)
python recipes/forgetting/run.py headlines --seeds 1 --arms replay,distill   # one task, two of the means
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import headlines  # noqa: E402 - lies beside this file, which is run as it is

from burnish.cli.main import call  # noqa: E402
from burnish.compare.variants import Variant  # noqa: E402
from burnish.core.files import write_atomic  # noqa: E402

TASKS = ("tweets", "headlines")
PLAIN = "plain"
ARMS = (
    "replay: data.replay.ratio=0.2",
    "distill: regularizers=[distill]",
    "distill two: regularizers=[{kind: distill, rows: 2}]",
    "distill on task: regularizers=[{kind: distill, on: task}]",
    "replay and distill: data.replay.ratio=0.2 regularizers=[distill]",
    "l2_sp: regularizers=[l2_sp]",
    "ewc: regularizers=[ewc]",
    "gentle: train.learning_rate=1.25e-4",
)
"""Each means at its defaults, and distillation of two general texts an update or of the task's rows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing, and write the summary of both tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", nargs="*", help=f"of {', '.join(TASKS)}; both by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", default=None, help="such as `replay,distill`; the plain recipe is always one")
    parser.add_argument("--home", type=Path, default=HERE.parents[1] / "runs/forgetting")
    parser.add_argument("overrides", nargs="*", help="changes of both recipes")
    given = parser.parse_intermixed_args(arguments)
    tasks = [one for one in given.tasks if "=" not in one] or list(TASKS)
    overrides = [one for one in [*given.tasks, *given.overrides] if "=" in one]
    headlines.write_headlines(given.home / "headlines.jsonl")
    for task in tasks:
        weigh(task, given.home, given.seeds, given.arms.split(",") if given.arms else None, overrides)
    summary = "\n\n".join(
        summary_of(one, given.home) for one in TASKS if (given.home / one / "tradeoff.json").is_file()
    )
    write_atomic(given.home / "forgetting.md", (summary + "\n").encode())
    print(summary)
    return 0


def weigh(task: str, home: Path, seeds: int, names: Sequence[str] | None, overrides: Sequence[str]) -> None:
    """`burnish tradeoff` of one task; runs that are finished are not repeated."""
    changed = [*overrides, *([f"data.train.path={home / 'headlines.jsonl'}"] if task == "headlines" else [])]
    wanted = [arm for arm in ARMS if names is None or arm.partition(":")[0] in names]
    arms = [part for arm in wanted for part in ("--arm", arm)]
    command = ["tradeoff", str(HERE / f"{task}.yaml"), *changed, "--only", *arms, "--seeds", str(seeds)]
    code = call([*command, "--output", str(home / task)])
    if code:
        raise SystemExit(code)


def summary_of(task: str, home: Path) -> str:
    """The arms of one task as a table: gain and loss, and both as shares of what the plain arm gains and loses.

    Shares are taken seed by seed; the mean over seeds is given, and the least and the most of them.
    """
    found = json.loads((home / task / "tradeoff.json").read_text(encoding="utf-8"))
    runs = {arm["label"]: runs_of(home / task / "runs", arm["label"], found["metric"]) for arm in found["arms"]}
    title = f"**{task}**: {found['metric']} on {found['rows']} {found['split']} rows, {found['seeds']} seeds"
    head = f"| | {found['metric']} | gain | of the plain gain | lost of what it knew | of the plain loss kept back |"
    lines = [line(arm, runs[arm["label"]], runs[PLAIN]) for arm in found["arms"]]
    return "\n".join([title, "", head, "|---" * 6 + "|", *lines])


@dataclass(frozen=True)
class Run:
    """What one run gained on its task, and the share of what the original knew that it lost."""

    gain: float
    lost: float


def runs_of(folder: Path, arm: str, metric: str) -> dict[str, Run]:
    """The finished runs of an arm, by seed; a loss that falls is a gain."""
    slug, found = Variant(arm, ()).slug, {}
    for path in sorted(folder.glob(f"{slug}-seed*/evaluation.json")):
        read = json.loads(path.read_text(encoding="utf-8"))
        gain = read["tuned"]["metrics"][metric]["value"] - read["base"]["metrics"][metric]["value"]
        lost = 1 - read["retention"]["change"]["score"]["value"]
        found[path.parent.name.rpartition("seed")[2]] = Run(-gain if metric == "loss" else gain, lost)
    return found


def line(arm: Mapping[str, Any], runs: Mapping[str, Run], plain: Mapping[str, Run]) -> str:
    """One arm."""
    seeds = [seed for seed in runs if seed in plain]
    kept, spared = (
        spread([share(runs[seed], plain[seed]) for seed in seeds]) if arm["label"] != PLAIN else ""
        for share in (lambda one, other: one.gain / other.gain, lambda one, other: 1 - one.lost / other.lost)
    )
    gain, lost = statistics.mean(run.gain for run in runs.values()), spread([run.lost for run in runs.values()])
    task = arm["task"]
    interval = f"{task['value']:.3f} ({task['low']:.3f} to {task['high']:.3f})"
    return f"| {arm['label']} | {interval} | +{gain:.3f} | {kept} | {lost} | {spared} |"


def spread(shares: Sequence[float]) -> str:
    """Mean, least and most, in per cent."""
    mean = f"{100 * statistics.mean(shares):.1f} %"
    return mean if len(shares) == 1 else f"{mean} ({100 * min(shares):.1f} to {100 * max(shares):.1f})"


if __name__ == "__main__":
    sys.exit(main())
