"""What all tests share."""

from __future__ import annotations

import pytest

from burnish.train import run
from burnish.train.verify import verify_run


@pytest.fixture(autouse=True)
def read_back_here(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Read runs back in this process: a fresh one takes seconds to import PyTorch, and some tests check it apart."""
    if "fresh_process" not in request.keywords:
        monkeypatch.setattr(run, "read_back", verify_run)
