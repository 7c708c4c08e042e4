"""`burnish launch`: runs, restarts, one message when a process dies, and never a hang.

Real processes, started as a person starts them; a tiny model. What a process is killed by is planted through a callback
module that the test puts on the path (`sitecustomize`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli.launched import continued
from tests.distributed.common import ROOT, free_port, job, numbers, same

LIMIT = 600

PLANTED = """
import os, signal
step, rank, how = os.environ.get("PLANT", "0:0:").split(":")
if os.environ.get("RANK") == rank and os.environ.get("BURNISH_ATTEMPT") == "0":
    import burnish.train.loop as loop
    import burnish.checkpoint.store as store
    update = loop.update
    def planted(job, state, liveness):
        if state.step == int(step) and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if state.step == int(step) and how == "crash":
            raise KeyError("planted")
        if state.step == int(step) and how == "nan":
            next(job.model.parameters()).data.fill_(float("nan"))
        return update(job, state, liveness)
    loop.update = planted
    if how == "disk":
        def full(*_):
            raise OSError(28, "No space left on device")
        store.write_tensors = full
"""


def launch(folder: Path, *arguments: str, plant: str = "0:9:") -> subprocess.CompletedProcess[str]:
    """Call `burnish launch` and give what it said; a hang fails the test."""
    (folder / "planted").mkdir(exist_ok=True)
    (folder / "planted/sitecustomize.py").write_text(PLANTED)
    path = os.pathsep.join([str(folder / "planted"), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    code = "import sys; from burnish.cli.main import main; main(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, "launch", *arguments],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PLANT": plant},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def written(folder: Path, name: str, engine: str = "ddp", **sections: Any) -> Path:
    """A recipe file; a checkpoint after every second update."""
    often = {"checkpoint": {"every_steps": 2}, "evaluate": {"every_steps": 2, "samples": 0}}
    values = job(folder, name, engine, **{**often, **sections})
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launch")


def test_a_killed_process_ends_the_job_and_a_restart_finishes_it(home: Path) -> None:
    """Killed before update 4 (counted from 0): one message, no traceback, exit code 1, within a minute of the kill.

    With one restart the same job resumes from update 4 and ends as if nothing had happened.
    """
    began = time.monotonic()
    died = launch(home, str(written(home, "killed")), "-n", "2", plant="4:1:kill")
    assert died.returncode == 1, died.stderr
    assert "process 1 of 2 was ended by SIGKILL" in died.stderr and "Traceback" not in died.stderr
    assert died.stderr.count("error:") == 1 and "burnish launch" in died.stderr
    assert time.monotonic() - began < LIMIT
    resumed = launch(home, str(home / "runs/killed"), "-n", "2")
    assert resumed.returncode == 0, resumed.stderr
    again = launch(home, str(written(home, "again")), "-n", "2", "--restarts", "1", plant="4:1:kill")
    assert again.returncode == 0, again.stderr
    assert "starting again (1 of 1)" in again.stderr
    same(home / "runs/again", home / "runs/killed", tolerance=0.0)
    assert [line["step"] for line in numbers(home / "runs/again", "train")] == [1, 2, 3, 4, 5, 6]
    assert (home / "runs/again/report.html").is_file()


def test_the_main_process_is_killed(home: Path) -> None:
    died = launch(home, str(written(home, "main")), "-n", "2", plant="3:0:kill")
    assert died.returncode == 1 and "process 0 of 2 was ended by SIGKILL" in died.stderr
    assert "Traceback" not in died.stderr


def test_a_disk_that_is_full(home: Path) -> None:
    """The main process writes; its refusal reaches all, and is said once with its exit code."""
    full = launch(home, str(written(home, "full")), "-n", "2", plant="0:0:disk")
    assert full.returncode == 2, full.stderr
    assert full.stderr.count("No space left on device") == 1 and "Traceback" not in full.stderr


def test_a_disk_that_is_full_in_one_process_of_several_that_write(home: Path) -> None:
    """All end with its message and leave no half a checkpoint behind."""
    recipe = str(written(home, "parted", checkpoint={"every_steps": 2, "sharded": True}))
    full = launch(home, recipe, "-n", "2", plant="0:1:disk")
    assert full.returncode == 2, full.stderr
    assert full.stderr.count("No space left on device") == 1 and "Traceback" not in full.stderr
    assert not list((home / "runs/parted/checkpoints").iterdir())


def test_a_loss_that_is_not_finite_in_one_process(home: Path) -> None:
    """The loss of an update is that of all processes: all stop before the update, and one says so with exit code 3.

    What is kept of the update holds the rows of both, eight in all.
    """
    stopped = launch(home, str(written(home, "nan")), "-n", "2", plant="3:1:nan")
    assert stopped.returncode == 3, stopped.stderr
    assert stopped.stderr.count("the weights were not touched") == 1 and "Traceback" not in stopped.stderr
    note = json.loads((home / "runs/nan/stopped/stopped.json").read_text())
    assert len({row for batch in note["batches"] for row in batch["row_ids"]}) == 8


def test_two_machines(home: Path) -> None:
    """Each starts its own process and is told where machine 0 is; only machine 0 speaks."""
    recipe = str(written(home, "machines"))
    meet = ["--nodes", "2", "--master", f"127.0.0.1:{free_port()}"]
    with ThreadPoolExecutor() as pool:
        both = pool.map(lambda rank: launch(home, recipe, "-n", "1", *meet, "--node-rank", rank), ("0", "1"))
        first, second = both
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout and not second.stdout.strip()
    assert (home / "runs/machines/report.html").is_file()


def test_another_attempt_goes_on_with_its_own_run_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is older than the launch is replaced only if `--force` was given; its checkpoints are no matter."""
    recipe = written(tmp_path, "again")
    folder = tmp_path / "runs/again"
    (folder / "checkpoints/step-000002").mkdir(parents=True)
    (folder / "checkpoints/step-000002/manifest.json").touch()
    (folder / "recipe.yaml").touch()
    made = (folder / "recipe.yaml").stat().st_mtime
    monkeypatch.setenv("BURNISH_ATTEMPT", "1")
    monkeypatch.setenv("BURNISH_LAUNCHED", str(made + 1))
    assert continued(["run", str(recipe), "--force"]) == ["run", str(recipe), "--force"]
    monkeypatch.setenv("BURNISH_LAUNCHED", str(made - 1))
    assert continued(["run", str(recipe), "--json"]) == ["resume", str(folder), "--json"]
    (folder / "checkpoints/step-000002/manifest.json").unlink()
    assert continued(["run", str(recipe)]) == ["run", str(recipe), "--force"]
    monkeypatch.setenv("BURNISH_ATTEMPT", "0")
    assert continued(["run", str(recipe)]) == ["run", str(recipe)]


def test_json_is_the_main_process_alone(home: Path) -> None:
    """Every line is an object; the result comes once."""
    said = launch(home, str(written(home, "json", "fsdp2")), "-n", "2", "--json")
    assert said.returncode == 0, said.stderr
    events = [json.loads(line)["event"] for line in said.stdout.splitlines()]
    assert events.count("result") == 1 and events.count("stepped") == 6


def test_torchrun_works_as_well(home: Path) -> None:
    recipe = written(home, "torchrun")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "-m", "burnish.cli.launched", "run", str(recipe)],
        env=env,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (home / "runs/torchrun/report.html").is_file()
