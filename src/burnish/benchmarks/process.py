"""One contender, once: a process of its own, listened to line by line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.benchmarks.contenders import WARM, Contender

SCRIPTS = Path(__file__).parent / "scripts"
MARK = "BENCH "
"""Before every line that a script has for the runner; `scripts/measure.py` writes it."""

MOST_WORDS = 200
Result = dict[str, Any]
Progress = Callable[[int, int], None]


def environment(contender: Contender) -> dict[str, str]:
    """The environment of a contender's process: this one's, offline and quiet, with the allocator as wanted.

    ``BENCH_STARTED`` lets the imports count as start-up.
    """
    values = {**os.environ, "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if contender.warm:
        values["GLIBC_TUNABLES"] = WARM
    return {**values, "BENCH_STARTED": repr(time.time())}


def run_contender(
    contender: Contender,
    python: str,
    folder: Path,
    *,
    timeout: float = 3600.0,
    progress: Progress = lambda done, total: None,
    scripts: Path = SCRIPTS,
) -> Result:
    """Run a contender; its measurements, or ``{"failed": why}`` with the last line that it had to say.

    Args:
        contender: Who.
        python: The interpreter that has what it needs.
        folder: The job's folder.
        timeout: Seconds after which it is ended.
        progress: Called with updates done and in total.
        scripts: Where the scripts lie.
    """
    command = [python, str(scripts / contender.script), str(folder), *contender.arguments]
    return listen(command, environment(contender), timeout, progress)


def listen(command: Sequence[str], values: Mapping[str, str], timeout: float, progress: Progress) -> Result:
    """Start a command and read what it tells behind ``MARK``; whatever else it prints is for nobody."""
    answer: Result | None = None
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        try:
            process = subprocess.Popen(
                command, env=dict(values), stdout=subprocess.PIPE, stderr=errors, text=True, errors="replace"
            )
        except OSError as error:
            return {"failed": f"{command[0]}: {error.strerror}"}
        too_long = threading.Event()

        def end() -> None:
            too_long.set()
            process.kill()

        timer = threading.Timer(timeout, end)
        timer.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                told = heard(line)
                if "progress" in told:
                    progress(told["progress"], told["total"])
                answer = told.get("answer", answer)
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
        finally:
            timer.cancel()
        errors.seek(0)
        said = last_line(errors.read())
    if too_long.is_set():
        return {"failed": f"ended after {timeout:.0f} seconds; a longer `--timeout` gives it more"}
    if code or answer is None:
        return {"failed": said or f"ended with code {code} and no word"}
    return answer


def heard(line: str) -> dict[str, Any]:
    """What a line of output says to the runner; empty for all other lines."""
    if not line.startswith(MARK):
        return {}
    try:
        told = json.loads(line.removeprefix(MARK))
    except json.JSONDecodeError:
        return {}
    return told if isinstance(told, dict) else {}


def last_line(text: str) -> str:
    """The last line that is no blank, short enough for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:MOST_WORDS] if lines else ""


def find_python(contender: Contender, given: Sequence[str], installed: Mapping[str, frozenset[str]]) -> str | None:
    """The first of the given interpreters that has what a contender needs; this one for Burnish; else None."""
    if not contender.needs:
        return sys.executable
    return next((python for python in given if installed[python].issuperset(contender.needs)), None)


def packages_of(python: str, names: Sequence[str]) -> frozenset[str]:
    """Which of the packages an interpreter has, found without importing them; none if it cannot be started."""
    code = "import sys, importlib.util as u; print(*[n for n in sys.argv[1:] if u.find_spec(n)])"
    try:
        # -I: neither the working folder nor what another environment brings along is installed there
        answer = subprocess.run([python, "-I", "-c", code, *names], capture_output=True, text=True, check=False)
    except OSError:
        return frozenset()
    return frozenset(answer.stdout.split())
