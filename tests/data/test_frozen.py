"""Streaming changed nothing: tables, order, splits, counts and findings are those of the code that held all rows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data import frozen

FROZEN = json.loads(frozen.FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", frozen.CASES)
def test_rows_are_as_they_were(tmp_path: Path, name: str) -> None:
    """Oracle: the values that the code before wrote down for the same sources, settings and seeds."""
    found = frozen.record(frozen.prepared(name, tmp_path), tmp_path)
    assert json.loads(json.dumps(found)) == FROZEN[name]
