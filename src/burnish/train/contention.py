"""Whether other processes take the cores that a run computes on: said once, for it costs more than their share.

The threads of an operation wait for one another, and wait by spinning. One whose core is taken for a time slice keeps
the others spinning for as long, thousands of times in an update.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import psutil
import torch

from burnish.core.events import Callback, Event, Noticed, Stepped
from burnish.core.findings import Finding
from burnish.train.folder import RunFolder
from burnish.train.loop import tell

WINDOW = 20.0
"""Seconds that are looked at together."""
TAKEN, FREE = 0.25, 0.1
"""Cores that others take at least, and that are free at most."""


@dataclass(frozen=True)
class Times:
    """Seconds, counted from some moment.

    Attributes:
        clock: On the wall.
        busy: Of all cores of the machine, in which anything ran.
        idle: Of all cores, in which nothing did.
        own: Of this process.
    """

    clock: float
    busy: float
    idle: float
    own: float


def times_now() -> Times:
    """What the system has counted; time that a host took from a virtual machine is busy time of others."""
    machine, own = psutil.cpu_times(), psutil.Process().cpu_times()
    busy = sum(getattr(machine, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    return Times(time.monotonic(), busy, machine.idle + getattr(machine, "iowait", 0.0), own.user + own.system)


class Contention:
    """Looks at the cores as a run goes.

    Args:
        folder: The run.
        listeners: Who is told.
        threads: How many compute an operation together.
        read: What the system has counted.
    """

    def __init__(
        self,
        folder: RunFolder,
        listeners: Sequence[Callback],
        threads: int | None = None,
        read: Callable[[], Times] = times_now,
    ) -> None:
        self.folder, self.listeners, self.read = folder, listeners, read
        self.threads = torch.get_num_threads() if threads is None else threads
        self.since: Times | None = None
        self.told = self.threads == 1  # one thread waits for none

    def __call__(self, event: Event) -> None:
        """Look after an update, a window at a time."""
        if self.told or not isinstance(event, Stepped):
            return
        now = self.read()
        before = self.since = self.since or now
        if now.clock - before.clock >= WINDOW:
            self.since, finding = now, contended(before, now, self.threads)
            if finding:
                self.told = True
                self.folder.note([finding])
                tell(self.listeners, Noticed(finding))


def contended(before: Times, now: Times, threads: int) -> Finding | None:
    """The finding for a stretch of time in which others took cores and none was free."""
    seconds = now.clock - before.clock
    others = max(0.0, (now.busy - before.busy) - (now.own - before.own)) / seconds
    free = (now.idle - before.idle) / seconds
    if others < TAKEN or free > FREE:
        return None
    left = max(1, threads - math.ceil(others))
    return Finding(
        "warning",
        "machine.contended",
        f"other processes took {others:.1f} cores over {seconds:.0f} seconds, and none was free",
        "this machine",
        f"Threads wait for one another by spinning, and one of {threads} that has to share its core holds all up: "
        "an update takes several times as long, not a share longer.",
        f"end the others, or start with `OMP_NUM_THREADS={left}`, or with `GOMP_SPINCOUNT=0`, which lets them sleep",
        {"threads": threads, "taken_by_others": round(others, 2), "free": round(free, 2), "seconds": round(seconds, 1)},
    )
