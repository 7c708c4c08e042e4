"""The same recipe on 1, 2 and 4 processes: losses, scores, weights and moments, for every engine that carries it.

All cases of an engine run in one group of processes, one after the other. The oracle is the run of one process without
an engine, which other tests hold against `transformers` and `peft`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from burnish.core.config import build
from burnish.train import run
from burnish.train.config import RunConfig
from burnish.train.handover import load_handed_over
from burnish.train.verify import verify_run
from tests.distributed.cases import CARRIED, run_of, values
from tests.distributed.common import carry, last_checkpoint, same, weights

Reference = Callable[[str], Path]
DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
ENGINES = [
    pytest.param(name, marks=pytest.mark.skipif(name.startswith("zero") and not DEEPSPEED, reason="no deepspeed here"))
    for name in CARRIED
]
HERE = [name for name in CARRIED if DEEPSPEED or not name.startswith("zero")]
AT = 4
"""Update after which runs are interrupted, to be resumed: in the last of three stages."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("matrix")


@pytest.fixture(scope="module")
def one(root: Path) -> Reference:
    """Runs of one process, each made when it is first asked for."""

    def finished(case: str) -> Path:
        if not run_of(root, case, "one").exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(run, "read_back", verify_run)
                run.start_run(build(RunConfig, values(root, case, "one")))
        return run_of(root, case, "one")

    return finished


@pytest.fixture(scope="module")
def carried(root: Path) -> Callable[[str], None]:
    """Runs every case of an engine on two processes, once."""
    done: set[str] = set()

    def all_of(engine: str) -> None:
        if engine not in done:
            done.add(engine)
            carry(root, 2, [{"run": values(root, case, engine, engine)} for case in CARRIED[engine]])

    return all_of


@pytest.mark.parametrize("engine", ENGINES)
def test_two_processes_equal_one(engine: str, root: Path, one: Reference, carried: Callable[[str], None]) -> None:
    """fp32, to 1e-5: losses, gradient norms, units, validation scores, and every tensor of the last checkpoint."""
    carried(engine)
    for case in CARRIED[engine]:
        same(run_of(root, case, engine), one(case))


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_handed_over_opens_on_one_process(engine: str, root: Path, carried: Callable[[str], None]) -> None:
    """Plain safetensors: every check of the files passes, no trained tensor is empty, and the model opens here."""
    carried(engine)
    found = run_of(root, "full", engine)
    assert all(check.passed for check in verify_run(found))
    assert all(tensor.numel() for tensor in weights(found).values())
    model = load_handed_over(found, dtype=torch.float32).model
    assert all(type(p) is torch.nn.Parameter and p.numel() for p in model.parameters())


def test_four_processes_and_a_checkpoint_of_two_on_one_and_four(root: Path, one: Reference) -> None:
    """Two processes are interrupted after update 4; the rest runs on four and on one, which equals never stopping.

    What goes on with four is saved in parts: two of two processes first, four of four in the end. The uneven case runs
    on four from the beginning: its last update of 5 rows gives three of them one and one two.
    """
    cases = {name: "stages" if name != "ddp" else "uneven" for name in HERE if name != "zero1"}
    parted = [
        {"run": values(root, case, f"{engine}-{rest}", engine, checkpoint={"sharded": rest == "four"}), "stop": AT}
        for engine, case in cases.items()
        for rest in ("four", "single")
    ]
    carry(root, 2, parted)
    for engine, case in cases.items():
        parts = last_checkpoint(run_of(root, case, f"{engine}-four")).glob("trainable-*.safetensors")
        assert sorted(part.stem[-14:] for part in parts) == ["00001-of-00002", "00002-of-00002"]
    resumed = {
        rest: [str(run_of(root, case, f"{e}-{rest}")) for e, case in cases.items()] for rest in ("four", "single")
    }
    whole = [{"run": values(root, "uneven", f"{engine}-whole", engine)} for engine in ("ddp", "fsdp2")]
    carry(root, 4, [*({"resume": folder} for folder in resumed["four"]), *whole])
    carry(root, 1, [{"resume": folder} for folder in resumed["single"]])
    for engine, case in cases.items():
        for rest in ("four", "single"):
            same(run_of(root, case, f"{engine}-{rest}"), one(case))
    for engine in ("ddp", "fsdp2"):
        same(run_of(root, "uneven", f"{engine}-whole"), one("uneven"))
