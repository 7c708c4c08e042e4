"""The benchmark: prepare the job, then let the contenders take turns, and write down everything after each."""

from __future__ import annotations

import json
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from burnish.benchmarks.chart import draw
from burnish.benchmarks.compare import Line, compare, differences
from burnish.benchmarks.contenders import Contender, contenders_of
from burnish.benchmarks.jobs import JOBS, Job
from burnish.benchmarks.process import (
    SCRIPTS,
    Result,
    find_python,
    last_line,
    listen,
    packages_of,
    run_contender,
)
from burnish.core.errors import UserError
from burnish.core.files import write_atomic, write_json
from burnish.core.names import suggestion


@dataclass(frozen=True)
class Plan:
    """What is to be measured.

    Attributes:
        job: The job.
        contenders: Who takes part, in the order of a round.
        rounds: How often each one runs.
        slow_rounds: How often those run that take minutes.
        peers: Interpreters that have peers installed.
        data: A JSON list of rows, in place of the demo's tweets.
        rows: Rows to train on.
        held_out: Rows to score at the end.
        timeout: Seconds after which one run is ended.
        scripts: Where the scripts lie.
    """

    job: Job
    contenders: tuple[Contender, ...]
    rounds: int = 3
    slow_rounds: int = 1
    peers: tuple[str, ...] = ()
    data: Path | None = None
    rows: int = 64
    held_out: int = 32
    timeout: float = 3600.0
    scripts: Path = SCRIPTS

    def turns(self) -> list[tuple[int, Contender]]:
        """Every run, as round (from 0) and contender: A B A B, never A A B B, so that a drift meets all alike."""
        return [
            (number, contender)
            for number in range(self.rounds)
            for contender in self.contenders
            if number < (self.slow_rounds if contender.slow else self.rounds)
        ]


@dataclass
class Measured:
    """What was found.

    Attributes:
        plan: What was asked for.
        shared: The contents of ``job.json``.
        rounds: Measurements by contender, in the order of the rounds.
    """

    plan: Plan
    shared: dict[str, Any]
    rounds: dict[str, list[Result]] = field(default_factory=dict)

    def lines(self) -> list[Line]:
        """The comparison."""
        return compare(self.rounds, self.shared["expected"])

    def to_json(self) -> dict[str, Any]:
        """Everything: machine, job, every round, comparison."""
        return {
            "job": {key: value for key, value in self.shared.items() if key != "machine"},
            "data": str(self.plan.data) if self.plan.data else "tweets of the demo",
            "machine": {**machine(), **self.shared.get("machine", {})},
            "contenders": {c.name: {"title": c.title, "note": c.note} for c in self.plan.contenders},
            "rounds": self.rounds,
            "comparison": [line.to_json() for line in self.lines()],
        }


@dataclass(frozen=True)
class Listener:
    """Who wants to hear how far it is; all three may be left out.

    Attributes:
        begins: A run begins: its number from 0, how many there are, round, contender.
        moves: Updates done and in total, of the run that goes on.
        ends: A run has ended, with its result.
    """

    begins: Callable[[int, int, int, Contender], None] = lambda number, total, turn, contender: None
    moves: Callable[[int, int], None] = lambda done, total: None
    ends: Callable[[int, Contender, Result], None] = lambda turn, contender, result: None


def choose(job: str, only: Sequence[str]) -> tuple[Job, tuple[Contender, ...]]:
    """The job and who takes part.

    Raises:
        UserError: There is no such job or contender.
    """
    if job not in JOBS:
        raise UserError(f"there is no job `{job}`", where="--job", fix=suggestion(job, JOBS))
    taking_part = contenders_of(JOBS[job])
    names = {contender.name for contender in taking_part}
    for name in only:
        if name not in names:
            raise UserError(f"`{name}` takes no part in the job `{job}`", where="--only", fix=suggestion(name, names))
    return JOBS[job], tuple(c for c in taking_part if not only or c.name in only)


def measure(plan: Plan, output: Path, listener: Listener | None = None) -> Measured:
    """Run the benchmark; ``output/JOB.json`` and ``output/JOB.svg`` are written anew after every run.

    A contender that fails, or does another job than it was asked to, says why and is not run again.

    Raises:
        UserError: The job cannot be prepared, because of its data or its model.
    """
    listener = listener or Listener()
    needed = sorted({name for contender in plan.contenders for name in contender.needs})
    installed = {python: packages_of(python, needed) for python in plan.peers}
    turns = plan.turns()
    with tempfile.TemporaryDirectory(prefix="burnish-bench-") as name:
        measured = Measured(plan, prepare(plan, Path(name)))
        for number, (turn, contender) in enumerate(turns):
            done = measured.rounds.setdefault(contender.name, [])
            if any("failed" in result for result in done) or _is_another_job(measured, contender.name):
                continue
            listener.begins(number, len(turns), turn, contender)
            load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
            python = find_python(contender, plan.peers, installed)
            if python is None:
                result: Result = {"failed": f"no --peers PYTHON has {' and '.join(contender.needs)}"}
            else:
                result = run_contender(
                    contender,
                    python,
                    Path(name),
                    timeout=plan.timeout,
                    progress=listener.moves,
                    scripts=plan.scripts,
                )
            done.append({**result, "load_before": load})
            write(measured, output)
            listener.ends(turn, contender, result)
    return measured


def prepare(plan: Plan, folder: Path) -> dict[str, Any]:
    """Write the folder that all contenders share, in a process of its own; returns the contents of ``job.json``.

    Raises:
        UserError: The rows or the model are refused.
    """
    command = [sys.executable, str(plan.scripts / "prepare.py"), str(folder), "--job", json.dumps(plan.job.settings())]
    command += ["--rows", str(plan.rows), "--held-out", str(plan.held_out)]
    command += ["--data", str(plan.data)] if plan.data else []
    said = listen(command, os.environ, plan.timeout, lambda done, total: None).get("failed", "")
    if not (folder / "job.json").is_file():
        fix = "give `burnish bench` a JSON list of rows, and install requirements/demo.txt for models and tweets"
        raise UserError(f"the job cannot be prepared: {last_line(said)}", where=f"job {plan.job.name}", fix=fix)
    shared: dict[str, Any] = json.loads((folder / "job.json").read_text(encoding="utf-8"))
    return shared


def write(measured: Measured, output: Path) -> None:
    """The results so far."""
    write_json(output / f"{measured.plan.job.name}.json", measured.to_json())
    titles = {c.name: c.title for c in measured.plan.contenders}
    write_atomic(output / f"{measured.plan.job.name}.svg", draw(measured.plan.job.title, titles, measured.lines()))


def machine() -> dict[str, Any]:
    """The machine, for the file of results."""
    return {
        "system": platform.platform(),
        "processor": processor(),
        "python": platform.python_version(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
    }


def processor(path: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name, as the kernel gives it."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    return names[0] if names else platform.processor()


def _is_another_job(measured: Measured, name: str) -> bool:
    ours = next((r for r in measured.rounds.get("burnish", []) if "failed" not in r), None)
    done = measured.rounds[name]
    return bool(done) and any(differences(r, measured.shared["expected"], ours or done[0]) for r in done)
