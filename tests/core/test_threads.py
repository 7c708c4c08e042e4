"""What OpenMP is told before PyTorch loads it; each case in a process of its own, since it is read once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from burnish.core.threads import SPINS


def shown(code: str, **given: str) -> str:
    """What libgomp says of its settings when it is loaded, with the imports of ``code``."""
    kept = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment = {**kept, **given, "OMP_DISPLAY_ENV": "VERBOSE"}
    said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "GOMP_SPINCOUNT" not in said.stderr:
        pytest.skip("PyTorch is built with another OpenMP here")
    return said.stderr


def test_threads_sleep_sooner() -> None:
    """libgomp itself shows the number, so that it came before the library was loaded; and not without Burnish."""
    wanted = f"GOMP_SPINCOUNT = '{SPINS}'"
    assert wanted in shown("import burnish, torch")
    assert wanted not in shown("import torch")


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "77"}, {"OMP_WAIT_POLICY": "ACTIVE"}])
def test_what_the_environment_says_stays(given: dict[str, str]) -> None:
    """An active wait is 30 billion looks (libgomp's manual, GOMP_SPINCOUNT)."""
    count = given.get("GOMP_SPINCOUNT", "30000000000")
    assert f"GOMP_SPINCOUNT = '{count}'" in shown("import burnish, torch", **given)
