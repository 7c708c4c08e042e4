"""Starting the processes of a run, and ending all of them when one ends badly: one message, never a hang.

They find each other as those of `torchrun` do: by RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch.distributed import TCPStore

from burnish.core.errors import BurnishError, UserError
from burnish.ops.machine import usable_cores
from burnish.train.config import RunConfig
from burnish.train.distributed.refusals import refuse

PEER_LOST = 75
"""Exit code of a process that lost another: what it has to say is of no interest."""
ATTEMPT = "BURNISH_ATTEMPT"
"""Variable that says how often the processes were started before."""
SINCE = "BURNISH_LAUNCHED"
"""Variable that says when they were started first, in seconds since 1970: an older run folder is not theirs."""
INTERRUPTED = 130
FINAL = (2, 3, INTERRUPTED)
"""Exit codes that another start would meet again: refused, stopped to protect the result, interrupted."""
GRACE, PATIENCE, POLL = 5.0, 60.0, 0.1
"""Seconds in which the others may end by themselves; in which they may after SIGTERM; and between two looks."""
SHOWN = 4000


@dataclass(frozen=True)
class Launch:
    """Where and how many processes.

    Attributes:
        processes: On this machine.
        nodes: Machines.
        node_rank: Number of this one, from 0.
        master: Name or address of machine 0, with a port behind a colon.
        restarts: How often all are started again after one crashed.
    """

    processes: int
    nodes: int = 1
    node_rank: int = 0
    master: str = ""
    restarts: int = 0

    @property
    def size(self) -> int:
        """Processes on all machines."""
        return self.processes * self.nodes

    def address(self, attempt: int) -> dict[str, str]:
        """Where processes of several machines meet; each attempt meets at the port behind the last one's."""
        host, _, port = self.master.rpartition(":")
        return {"MASTER_ADDR": host, "MASTER_PORT": str(int(port) + attempt)}


def check(config: RunConfig, launch: Launch) -> None:
    """Refuse what cannot work, before any process starts.

    Raises:
        UserError: The recipe names no engine, or one that cannot carry it; or the numbers contradict each other.
    """
    if config.distributed.engine == "none":
        raise UserError(
            "the recipe names no engine that carries it over several processes",
            where="distributed.engine",
            fix="add `distributed.engine=ddp`, or another: docs/distributed.md says which",
        )
    if not 0 <= launch.node_rank < launch.nodes:
        raise UserError(
            f"machine {launch.node_rank} of {launch.nodes}: they count from 0", where="--node-rank", fix="mend it"
        )
    host, _, port = launch.master.rpartition(":")
    if (launch.nodes > 1 or launch.master) and not (host and port.isdigit()):
        raise UserError(
            "several machines have to know where they meet",
            where="--master",
            fix="name machine 0 and a free port of it, such as `--master node0:29500`",
        )
    if torch.cuda.is_available() and launch.processes > torch.cuda.device_count():
        raise UserError(
            f"{launch.processes} processes, and this machine has {torch.cuda.device_count()} GPUs: one for each",
            where="--processes",
            fix=f"use `--processes {torch.cuda.device_count()}`",
        )
    refuse(config, launch.size)


def start(command: Sequence[str], launch: Launch, say: object = None) -> int:
    """Start the processes, wait for them, and start them again where that is allowed; returns the exit code.

    Args:
        command: What Python is given in each process.
        launch: How many, and where.
        say: Called with a line before a restart.

    Raises:
        BurnishError: A process was killed or crashed.
    """
    since = time.time()
    for attempt in range(launch.restarts + 1):
        ended = Processes(command, launch, attempt, since).wait()
        if not ended.code or ended.code in FINAL or attempt == launch.restarts:
            break
        if callable(say):
            say(f"{ended.what}; starting again ({attempt + 1} of {launch.restarts})")
    if ended.shown or not ended.code:
        return ended.code
    raise BurnishError(ended.what, where=ended.where, fix=ended.fix)


@dataclass(frozen=True)
class Ended:
    """How all processes of one attempt ended.

    Attributes:
        code: Exit code of the one that began it; 0 if all is well.
        shown: Whether it has told why itself.
        what: What happened, in one sentence.
        where: Which process.
        fix: What to do.
    """

    code: int
    shown: bool = True
    what: str = ""
    where: str = ""
    fix: str = ""


@dataclass
class Processes:
    """The processes of one attempt on this machine.

    Attributes:
        command: What Python is given.
        launch: How many, and where.
        attempt: How often they were started before.
        since: When they were started first.
        store: Where they meet, unless they are told another place.
    """

    command: Sequence[str]
    launch: Launch
    attempt: int
    since: float
    running: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    store: TCPStore | None = None

    def wait(self) -> Ended:
        """Start them and wait until none is left."""
        with tempfile.TemporaryDirectory(prefix="burnish-launch-") as folder:
            before = signal.signal(signal.SIGTERM, self._pass_on)
            try:
                self._start(Path(folder))
                self._until_one_fails()
                return self._ended(Path(folder))
            finally:
                self._end()
                signal.signal(signal.SIGTERM, before)

    def _start(self, folder: Path) -> None:
        self.store = None if self.launch.master else open_store()
        shared = {
            **(meeting_at(self.store) if self.store else self.launch.address(self.attempt)),
            "WORLD_SIZE": str(self.launch.size),
            "LOCAL_WORLD_SIZE": str(self.launch.processes),
            ATTEMPT: str(self.attempt),
            SINCE: str(self.since),
        }
        threads = str(max(1, usable_cores() // self.launch.processes))
        for local in range(self.launch.processes):
            rank = self.launch.node_rank * self.launch.processes + local
            own = {"RANK": str(rank), "LOCAL_RANK": str(local)}
            environment = {"OMP_NUM_THREADS": threads, **os.environ, **shared, **own}
            with (folder / f"{rank}.log").open("wb") as log:
                told = None if rank == 0 else log  # the main process speaks; what others say is kept for their errors
                self.running.append(
                    subprocess.Popen([sys.executable, *self.command], env=environment, stdout=told, stderr=told)
                )

    def _until_one_fails(self) -> None:
        """Until all are done or one has failed; Ctrl-C reaches them too, and they save and end."""
        while True:
            try:
                codes = [process.poll() for process in self.running]
                if any(codes) or None not in codes:
                    return
                time.sleep(POLL)
            except KeyboardInterrupt:
                continue

    def _ended(self, folder: Path) -> Ended:
        interrupted = any(process.returncode == INTERRUPTED for process in self.running)
        self._await(PATIENCE if interrupted else GRACE)
        self._end()
        codes = {self._rank(i): process.returncode for i, process in enumerate(self.running)}
        bad = {rank: code for rank, code in codes.items() if code and rank not in self.stopped}
        if not bad:
            return Ended(0)
        rank = min(bad, key=lambda r: (bad[r] == PEER_LOST, bad[r] > 0, r))
        code = bad[rank]
        if code > 0 and code != PEER_LOST and (rank == 0 or codes.get(0) == code):
            return Ended(code)
        return self._told(rank, code, folder)

    def _told(self, rank: int, code: int, folder: Path) -> Ended:
        who = f"process {rank} of {self.launch.size}"
        fix = "free memory is what such a process lacks most often; `burnish launch RUN_FOLDER` with the same "
        fix += "`--processes` goes on from the last checkpoint"
        if code < 0:
            name = signal.Signals(-code).name
            return Ended(1, False, f"{who} was ended by {name}; the others were stopped", socket.gethostname(), fix)
        if code == PEER_LOST:
            return Ended(
                1, False, f"{who} lost a process of another machine, and was stopped", socket.gethostname(), fix
            )
        log = folder / f"{rank}.log"
        said = log.read_text(encoding="utf-8", errors="replace")[-SHOWN:].strip() if log.exists() else ""
        return Ended(
            code, False, f"{who} ended with {code}; the others were stopped", socket.gethostname(), said or fix
        )

    def _rank(self, local: int) -> int:
        return self.launch.node_rank * self.launch.processes + local

    def _await(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and any(process.poll() is None for process in self.running):
            time.sleep(POLL)

    def _end(self) -> None:
        """Nobody stays behind."""
        for how, seconds in ((signal.SIGTERM, PATIENCE), (signal.SIGKILL, PATIENCE)):
            left = [i for i, process in enumerate(self.running) if process.poll() is None]
            self.stopped |= {self._rank(i) for i in left}
            for i in left:
                self.running[i].send_signal(how)
            if left:
                self._await(seconds)

    def _pass_on(self, number: int, frame: object) -> None:
        for process in self.running:
            if process.poll() is None:
                process.send_signal(number)


def open_store() -> TCPStore:
    """Where processes of this machine meet: a store of the launcher's own, on a port that the system chose for it.

    A port that is looked up for another process to listen on may be taken by a third one in between.
    """
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def meeting_at(store: TCPStore) -> dict[str, str]:
    """What tells a process to meet the others at a store that is open already."""
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
