"""The runner with contenders of a few lines: order, progress, failures, unequal jobs, and what is written."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from burnish.benchmarks.contenders import CONTENDERS, Contender
from burnish.benchmarks.jobs import JOBS
from burnish.benchmarks.process import SCRIPTS, environment, find_python, packages_of, run_contender
from burnish.benchmarks.runner import Listener, Plan, choose, measure
from burnish.cli.main import call
from burnish.core.errors import UserError

EXPECTED = {"rows": 4, "updates": 1, "tokens": 20, "trained_tokens": 8, "token_sum": 90, "label_sum": 30}
PREPARE = f"""
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
job = json.loads(sys.argv[sys.argv.index("--job") + 1])
(folder / "job.json").write_text(json.dumps({{**job, "expected": {EXPECTED}, "machine": {{"cores": 2}}}}))
"""
FAKE = f"""
import json, pathlib, sys
folder, rate, parameters = pathlib.Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
print("chatter that is for nobody")
print("BENCH " + json.dumps({{"progress": 1, "total": 1}}))
counts = {{key: value for key, value in {EXPECTED}.items() if key != "rows"}}
answer = {{**counts, "tokens_per_second": rate, "examples_per_second": 1.0, "peak_bytes": 1024, "startup_seconds": 1.0,
           "held_out_loss": 2.0, "trained_parameters": parameters, "threads": 1}}
print("BENCH " + json.dumps({{"answer": answer}}))
"""
BROKEN = "import sys\nprint('Traceback: much', file=sys.stderr)\nsys.exit('ValueError: this peer needs a GPU')\n"
OURS = Contender("burnish", "Burnish", "fake.py", ("300", "7"))
OTHER = Contender("other", "Other", "fake.py", ("100", "7"))


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder of scripts that need nothing."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name, text in {"prepare.py": PREPARE, "fake.py": FAKE, "broken.py": BROKEN}.items():
        (folder / name).write_text(text)
    return folder


def measured(scripts: Path, *contenders: Contender, **changes: Any) -> tuple[list[str], dict[str, Any]]:
    """The order of the runs, and the file that was written."""
    order: list[str] = []
    listener = Listener(begins=lambda number, total, turn, contender: order.append(contender.name))
    plan = Plan(JOBS["lora"], contenders, scripts=scripts, **changes)
    measure(plan, scripts.parent / "out", listener)
    return order, json.loads((scripts.parent / "out/lora.json").read_text())


def test_contenders_take_turns(scripts: Path) -> None:
    """Two rounds of two: A B A B. A slow one runs in the first round only."""
    slow = Contender("slow", "Slow", "fake.py", ("10", "7"), slow=True)
    order, written = measured(scripts, OURS, OTHER, slow, rounds=2)
    assert order == ["burnish", "other", "slow", "burnish", "other"]
    assert [len(written["rounds"][name]) for name in ("burnish", "other", "slow")] == [2, 2, 1]
    assert [line["faster"]["median"] for line in written["comparison"]] == [1, 3, 30]
    assert written["machine"]["cores"] == 2 and written["machine"]["processor"]
    assert (scripts.parent / "out/lora.svg").read_text().startswith("<svg")


def test_a_failure_says_its_last_line_and_stops_nobody(scripts: Path) -> None:
    """The broken one is tried once, in the first round; the one behind it runs in both."""
    order, written = measured(scripts, OURS, Contender("broken", "Broken", "broken.py"), OTHER, rounds=2)
    assert order == ["burnish", "broken", "other", "burnish", "other"]
    broken = written["comparison"][1]
    assert broken["why_not"] == "did not run: ValueError: this peer needs a GPU" and broken["faster"] is None
    assert written["comparison"][2]["faster"]["median"] == 3


def test_unequal_parameters_are_refused(scripts: Path) -> None:
    """Eight trained parameters in place of Burnish's seven: named, kept in the file, not compared, not run again."""
    order, written = measured(scripts, OURS, Contender("other", "Other", "fake.py", ("900", "8")), rounds=2)
    assert order == ["burnish", "other", "burnish"]
    assert written["comparison"][1]["why_not"] == "another job: 8 trained parameters in place of 7"
    assert written["rounds"]["other"][0]["tokens_per_second"] == 900


def test_progress_reaches_the_listener(scripts: Path) -> None:
    seen: list[tuple[int, int]] = []
    run_contender(
        OURS, sys.executable, scripts, progress=lambda done, total: seen.append((done, total)), scripts=scripts
    )
    assert seen == [(1, 1)]


def test_one_that_hangs_is_ended(scripts: Path) -> None:
    (scripts / "hangs.py").write_text("import time\ntime.sleep(600)\n")
    hangs = Contender("hangs", "Hangs", "hangs.py")
    assert (
        "ended after 1 seconds" in run_contender(hangs, sys.executable, scripts, timeout=1, scripts=scripts)["failed"]
    )


def test_a_peer_without_its_packages_is_told_apart(scripts: Path) -> None:
    """Interpreters are asked what they have; the first that has all of it is taken, and Burnish runs in its own."""
    peer = Contender("peer", "Peer", "fake.py", needs=("no_such_package",))
    _, written = measured(scripts, OURS, peer, rounds=1, peers=(sys.executable, "/no/such/python"))
    assert written["comparison"][1]["why_not"] == "did not run: no --peers PYTHON has no_such_package"
    has = {"a": frozenset({"trl"}), "b": frozenset({"trl", "peft"})}
    needs = Contender("peer", "Peer", "fake.py", needs=("trl", "peft"))
    assert find_python(needs, ("a", "b"), has) == "b" and find_python(OURS, (), {}) == sys.executable
    assert packages_of(sys.executable, ["json", "no_such_package"]) == {"json"}


def test_a_warm_allocator_is_for_those_who_ask() -> None:
    warm = Contender("warm", "Warm", "fake.py", warm=True)
    assert "mmap_max=0" in environment(warm)["GLIBC_TUNABLES"]
    assert "mmap_max=0" not in environment(OURS).get("GLIBC_TUNABLES", "")


def test_a_job_that_cannot_be_prepared_is_refused(scripts: Path) -> None:
    (scripts / "prepare.py").write_text("raise SystemExit('9 rows are wanted and 4 fit')")
    with pytest.raises(UserError, match="9 rows are wanted and 4 fit"):
        measured(scripts, OURS)


def test_every_contender_has_its_script_and_burnish_comes_first() -> None:
    for contenders in CONTENDERS.values():
        assert contenders[0].name == "burnish" and not contenders[0].needs
        assert len({c.name for c in contenders}) == len(contenders)
        assert all((SCRIPTS / c.script).is_file() for c in contenders)
    assert all((job.kind, job.method) in CONTENDERS for job in JOBS.values())


def test_unknown_names_are_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="classify-lora"):
        choose("clasify-lora", ())
    assert call(["bench", "--only", "burnsh"]) == 2
    assert "nearest: `burnish`" in capsys.readouterr().err


@pytest.mark.slow
def test_burnish_itself_on_four_tweets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command that a person tries first: real model, real scripts, one round; it does the job that was asked."""
    command = ["bench", "--rows", "4", "--held-out", "2", "--rounds", "1", "--only", "burnish"]
    assert call([*command, "--output", str(tmp_path)]) == 0
    written = json.loads((tmp_path / "lora.json").read_text())
    assert written["comparison"][0]["why_not"] == ""
    assert written["rounds"]["burnish"][0]["trained_parameters"] == 4_884_480
    assert "Burnish" in capsys.readouterr().out
