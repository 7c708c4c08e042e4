"""A stand-in for the process of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from burnish.compare import racing, run, search, sweep, worker
from burnish.core.config import build
from burnish.core.errors import BurnishError
from burnish.train.config import RunConfig


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Runs in this process, and a list of them."""
    made: list[tuple[str, str]] = []

    def here(mode: str, values: Mapping[str, Any], heard: Any = None, **options: Any) -> dict[str, Any]:
        made.append((mode, values["name"]))
        told: dict[str, Any] = {}
        monkeypatch.setattr(worker, "tell", lambda **said: told.update(said))
        try:
            worker.MODES[mode](build(RunConfig, values), **options)
        except BurnishError as error:
            told["failed"] = {"what": error.what, "where": error.where, "fix": error.fix}
        return told

    for caller in (run, racing, search, sweep):
        monkeypatch.setattr(caller, "call", here)
    return made
