"""Several runs in one group of processes, one after the other: what the tests of engines start through a launcher.

``python -m tests.distributed.worker JOBS.json``, where the file holds a list of ``{"run": recipe, "stop": step}`` and
``{"resume": folder}``. With ``"opened": file`` each process adds how many there are, its number, and the path of every
file below a folder `shards` that it opens.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from burnish.core.config import build
from burnish.core.events import Action, Callback, Event, Stepped, Stop
from burnish.train import run
from burnish.train.config import RunConfig
from burnish.train.distributed.group import close
from burnish.train.verify import verify_run


def stopping(step: int | None) -> Sequence[Callback]:
    """A callback that interrupts after this update."""

    def stop(event: Event) -> Action | None:
        return Stop("interrupted") if isinstance(event, Stepped) and event.step == step else None

    return [stop]


def watch(job: dict[str, Any]) -> None:
    """Write down which data files are opened, by whatever part of the program."""
    into = job["opened"]

    def opened(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and "/shards/" in str(arguments[0]):
            with open(into, "a") as file:  # a file beside the folder, so that this is not noted itself
                file.write(
                    json.dumps([int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]), str(arguments[0])]) + "\n"
                )

    sys.addaudithook(opened)


def work(job: dict[str, Any]) -> None:
    """One run, or the rest of one."""
    if "opened" in job:
        watch(job)
    if "resume" in job:
        run.resume_run(Path(job["resume"]))
    else:
        run.start_run(build(RunConfig, job["run"]), callbacks=stopping(job.get("stop")))


if __name__ == "__main__":
    run.read_back = verify_run  # a fresh process for each takes seconds to import PyTorch
    for one in json.loads(Path(sys.argv[1]).read_text()):
        work(one)
    close()
