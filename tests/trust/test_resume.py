"""A run that is killed at any moment and resumed equals one that never was, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the harness forks")
def test_killed_at_random_moments() -> None:
    """Eight SIGKILLs here; a hundred under ``make soak``. Packing, accumulation, dropout, shuffling, early stopping.

    The harness forks, so it needs a process without a pool of threads: a fork has the pool's locks but not its threads.
    """
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    command = [sys.executable, "-m", "tests.trust.kill", "--kills", "8"]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600, check=False)
    assert answer.returncode == 0, answer.stderr[-4000:]
    done = json.loads(answer.stdout.splitlines()[-1])
    assert done["kills"] == 8 and done["finished"] >= 1
