"""The benchmark of the diagnosis in small: a planted fault is recorded and named, a healthy run is not."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCH = Path(__file__).parents[2] / "bench"


def test_two_conditions_are_recorded_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    import diagnosis

    wanted = ("rate 30 times too high, decoder", "healthy: decoder, all weights")
    monkeypatch.setattr(diagnosis, "CONDITIONS", {name: diagnosis.CONDITIONS[name] for name in wanted})
    arguments = SimpleNamespace(out=tmp_path, seeds="0:1", only="", minutes=5.0, force=False)
    diagnosis.record(arguments)
    kept = [json.loads(path.read_text()) for path in tmp_path.glob("*.json")]
    assert sorted(one["condition"] for one in kept) == sorted(wanted)
    capsys.readouterr()
    diagnosis.judge(arguments)
    assert "recall 1/1 = 100.0%; false alarms 0/1 = 0.0%" in capsys.readouterr().out
