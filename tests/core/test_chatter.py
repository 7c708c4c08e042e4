"""What libraries say when they are imported does not stand between the lines of `--json`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_deepspeed_writes_nothing_to_standard_output() -> None:
    """Without a GPU and without `DS_ACCELERATOR` it warns there of the accelerator it chose."""
    environment = {name: value for name, value in os.environ.items() if name != "DS_ACCELERATOR"}

    def said(code: str) -> str:
        found = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
        )
        return found.stdout

    warning = "import deepspeed, logging; logging.getLogger('DeepSpeed').warning('a note')"
    assert "a note" in said(warning)
    assert said(f"import burnish; {warning}") == ""
    assert "a fault" in said("import burnish, deepspeed, logging; logging.getLogger('DeepSpeed').error('a fault')")
