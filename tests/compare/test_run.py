"""The comparison from end to end with a stand-in for the process of a run, and once with real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli.main import call
from burnish.compare import run, worker
from burnish.compare.run import CHART, PAGE, RESULTS, compare_methods
from burnish.compare.trials import Wanted
from burnish.compare.variants import read_variants
from burnish.core.errors import UserError
from tests.support.recipes import LABELS, configured, recipe

METHODS = "lora,lora+rslora=true,full,lora+rank=64"


def wanted(folder: Path, methods: str = METHODS, **changes: Any) -> Wanted:
    config = configured(folder, evaluate={"choices": list(LABELS)})
    return Wanted(config, read_variants(methods), changes.pop("seeds", 2), folder / "out", **changes)


def test_every_variant_is_run_with_every_seed_once(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """Two seeds of three variants; the fourth is refused with the first seed and not tried again. Called again, only
    the refused one is tried; a changed setting is run anew."""
    results = compare_methods(wanted(tmp_path))
    assert [name for _, name in calls] == [
        *(f"{slug}-seed0" for slug in ("lora", "lora-rslora-true", "full", "lora-rank-64")),
        *(f"{slug}-seed1" for slug in ("lora", "lora-rslora-true", "full")),
    ]
    assert {line.label: line.runs for line in results.lines} == {
        "lora": 2,
        "lora+rslora=true": 2,
        "full": 2,
        "lora+rank=64": 0,
    }
    assert "rank 64 is above the smaller side" in results.lines[-1].why_not
    lines = {line.label: line for line in results.measured}
    assert lines["lora"].facts["trainable"] == 4_352 and lines["full"].facts["trainable"] == 32_928
    assert {"base", "unmerged", "merged"} <= set(lines["lora"].latency) and "unmerged" not in lines["full"].latency
    assert lines["full"].facts["checkpoint_bytes"] > 4 * 32_000 > lines["lora"].facts["checkpoint_bytes"] > 4 * 4_352
    assert results.metric == "macro_f1" and len(results.pairs) == 3 and results.base is not None
    assert not (tmp_path / "out/runs/lora-seed0/checkpoints").exists()

    calls.clear()
    again = compare_methods(wanted(tmp_path))
    assert [name for _, name in calls] == ["lora-rank-64-seed0"]
    assert again.to_json()["methods"] == results.to_json()["methods"]
    calls.clear()
    compare_methods(wanted(tmp_path, "lora+dropout=0.1", seeds=1))
    assert len(calls) == 1


def test_what_is_written_escapes_and_names_everything(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    results = compare_methods(wanted(tmp_path, "lora,lora+rank=64", seeds=1))
    page = (tmp_path / "out" / PAGE).read_text()
    assert "Best macro-F1: lora" in page and "rank 64 is above" in page and "<svg" in page
    assert (tmp_path / "out" / CHART).read_text().startswith("<svg")
    written = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert written["methods"][0]["quality"]["macro_f1"]["value"] == results.measured[0].quality["macro_f1"].value
    assert written["rows"] == 12 and written["split"] == "test"


def test_a_time_budget_fixes_the_updates_from_a_measured_pace(
    tmp_path: Path, calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """0.02 minutes for two runs are 0.6 s each; at 0.15 s an update that is 4 updates. The pace is measured once."""
    monkeypatch.setitem(worker.MODES, "pace", lambda config: worker.tell(pace=0.149))
    results = compare_methods(wanted(tmp_path, "lora", minutes=0.02))
    assert [mode for mode, _ in calls] == ["pace", "run", "run"]
    assert results.measured[0].facts["updates"] == 4
    calls.clear()
    compare_methods(wanted(tmp_path, "lora", minutes=0.02))
    assert calls == []


def test_the_pace_of_an_update_is_measured(tmp_path: Path, calls: list[tuple[str, str]]) -> None:
    """The real measurement: some updates, no run folder."""
    told = run.call("pace", recipe(tmp_path))
    assert 0 < told["pace"] < 30 and not (tmp_path / "runs").exists()


def test_no_variant_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no variant can be run"):
        compare_methods(wanted(tmp_path, "lora+rnk=3"))


@pytest.mark.slow
def test_in_processes_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Through the command line: two variants, one seed, tables in the terminal, JSON on demand."""
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe(tmp_path, evaluate={"choices": list(LABELS)})))
    command = ["compare-methods", str(tmp_path / "recipe.yaml"), "--methods", "lora,full", "--seeds", "1"]
    command += ["--output", str(tmp_path / "out")]
    assert call(command) == 0
    shown = capsys.readouterr()
    assert "Best macro-F1" in shown.out and "forward, merged" in shown.out and "✓ lora, seed 0" in shown.err
    assert call([*command, "--json"]) == 0
    shown = capsys.readouterr()
    assert len(json.loads(shown.out)["methods"]) == 2 and "done before" in shown.err
