"""The command line starts quickly because nothing heavy is imported before a command needs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"
HEAVY = {"torch", "transformers", "datasets", "accelerate", "numpy", "pandas", "scipy", "sklearn", "peft", "pyarrow"}


@pytest.mark.parametrize("module", ["burnish", "burnish.cli.main"])
def test_nothing_heavy_is_imported(module: str) -> None:
    """`import burnish` and `burnish --help` need only what draws the help: no large library is loaded after either."""
    code = f"import {module}, json, sys; print(json.dumps([m for m in sys.modules if '.' not in m]))"
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", code]
    answer = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert answer.returncode == 0, answer.stderr
    loaded = set(json.loads(answer.stdout))
    assert "burnish" in loaded
    assert not HEAVY & loaded
