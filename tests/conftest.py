"""What all tests share."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # each core has a process of tests; PyTorch reads this when it is loaded
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

from burnish.train import run
from burnish.train.verify import verify_run


@pytest.fixture(autouse=True)
def read_back_here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Read runs back in this process: a fresh one takes seconds to import PyTorch, and some tests check it apart."""
    if "fresh_process" not in request.keywords:
        monkeypatch.setattr(run, "read_back", verify_run)
