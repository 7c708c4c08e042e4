"""Triton's compiler takes every kernel, down to binaries for two generations of GPUs; no GPU is needed for that."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from burnish.ops.kernels import has_triton, triton_kernel


@pytest.mark.slow
@pytest.mark.skipif(not has_triton(), reason="Triton is not installed (`pip install triton`, Linux only)")
def test_every_kernel_compiles(tmp_path: Path) -> None:
    """In a process of its own: in this one Triton interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    script = Path(__file__).with_name("compile_kernels.py")
    answer = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment, check=False)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert json.loads(answer.stdout)["compiled"] == 116


def test_nothing_of_triton_is_imported_by_the_package() -> None:
    """A machine without a GPU pays nothing for it."""
    code = "import sys, burnish.ops.cross_entropy, burnish.ops.attention; sys.exit('triton' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_without_triton_there_is_no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller then takes its plain path."""
    monkeypatch.setattr("burnish.ops.kernels.has_triton", lambda: False)
    triton_kernel.cache_clear()
    assert triton_kernel("rms_norm", "rms_norm") is None
    triton_kernel.cache_clear()
