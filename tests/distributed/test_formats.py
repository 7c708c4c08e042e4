"""What travels in half the bytes, and what waits in files: settings that the matrix leaves at their defaults."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.train import run
from burnish.train.config import RunConfig
from burnish.train.distributed.config import DistributedConfig
from burnish.train.distributed.on_disk import Disk
from burnish.train.verify import verify_run
from tests.distributed.cases import run_of, values
from tests.distributed.common import carry, numbers, same

ZERO = ("zero2", "zero3") if importlib.util.find_spec("deepspeed") else ()


def single(root: Path, case: str, **sections: Any) -> Path:
    """The run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "read_back", verify_run)
        run.start_run(build(RunConfig, values(root, case, "one", **sections)))
    return run_of(root, case, "one")


def job(root: Path, case: str, name: str, *, settings: dict[str, Any], **sections: Any) -> dict[str, Any]:
    """A job of the worker, with a section of its own for the engine."""
    return {"run": {**values(root, case, name, **sections), "distributed": settings}}


def test_sums_in_half_the_bytes(tmp_path: Path) -> None:
    """bf16 keeps 8 bits, so that each gradient is off by 2⁻⁹ at most: a norm over many by far less than one in 250.

    Losses of six updates follow those of one process to 2 %, and the norms are not equal, which shows that the setting
    reaches the sums.
    """
    engines = ("ddp", "fsdp2", *ZERO)
    wanted = numbers(single(tmp_path, "lora"), "train")
    settings = [{"engine": engine, "reduce_dtype": "bf16"} for engine in engines]
    carry(tmp_path, 2, [job(tmp_path, "lora", s["engine"], settings=s) for s in settings])
    for engine in engines:
        found = numbers(run_of(tmp_path, "lora", engine), "train")
        assert [line["loss"] for line in found] == pytest.approx([line["loss"] for line in wanted], rel=0.02), engine
        first, other = found[0]["grad_norm"], wanted[0]["grad_norm"]
        assert first != pytest.approx(other, rel=1e-6) and first == pytest.approx(other, rel=0.004), engine


def test_weights_gathered_in_half_the_bytes(tmp_path: Path) -> None:
    """Full tuning computes in bf16 either way; the norms' weights are rounded to 8 bits too, so losses are off by 1 %.

    What is saved are the shares, in fp32.
    """
    train = {"batch_size": 8, "max_steps": 6, "learning_rate": 0.001, "precision": "bf16"}
    wanted = single(tmp_path, "full", train=train)
    carry(
        tmp_path, 2, [job(tmp_path, "full", "half", settings={"engine": "fsdp2", "param_dtype": "bf16"}, train=train)]
    )
    found = run_of(tmp_path, "full", "half")
    losses = [[line["loss"] for line in numbers(one, "train")] for one in (found, wanted)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)
    assert all(check.passed for check in verify_run(found))


@pytest.mark.skipif(not ZERO, reason="no deepspeed here")
def test_shares_that_wait_in_files(tmp_path: Path) -> None:
    """Where a number lies does not change it: losses, weights and moments are those of one process, to 1e-5.

    Stages move shares to new files twice, and a checkpoint reads moments out of them. No file is left, nor a name of
    one while it is used.
    """
    folder = tmp_path / "disk"
    jobs = [
        job(tmp_path, case, f"{e}-{offload}", settings={"engine": e, "offload": offload, "offload_folder": str(folder)})
        for e, offload in (("zero2", "optimizer"), ("zero3", "optimizer"), ("zero3", "parameters"))
        for case in ("full", "stages")
    ]
    carry(tmp_path, 2, jobs)
    for case in ("full", "stages"):
        wanted = single(tmp_path, case)
        for name in ("zero2-optimizer", "zero3-optimizer", "zero3-parameters"):
            same(run_of(tmp_path, case, name), wanted)
    assert folder.is_dir() and not list(folder.iterdir())


def test_a_file_takes_its_room_at_once_and_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six numbers of 4 bytes. With no room for them there is a message, where a mapped page would end the process."""
    taken: list[int] = []
    real = os.posix_fallocate

    def counted(handle: int, begin: int, size: int) -> None:
        taken.append(size)
        real(handle, begin, size)

    monkeypatch.setattr("os.posix_fallocate", counted)
    values = torch.arange(6.0).view(2, 3)
    found = Disk(tmp_path / "new").copy(values)
    found[1, 2] = 7.0
    assert taken == [24] and found.tolist() == [[0, 1, 2], [3, 4, 7]] and values[1, 2] == 5
    assert not list((tmp_path / "new").iterdir())
    assert Disk(tmp_path).zeros(torch.empty(0, dtype=torch.bfloat16)).dtype == torch.bfloat16

    def full(*given: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(UserError, match="No space left") as caught:
        Disk(tmp_path).zeros(values)
    assert caught.value.where == str(tmp_path)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"engine": "zero2", "offload_folder": "x"}, "name what is offloaded"),
        ({"engine": "ddp", "param_dtype": "bf16"}, "`ddp` cannot gather weights in another format"),
        ({"reduce_dtype": "bf16"}, "one process sums no gradients"),
    ],
)
def test_settings_without_effect_are_refused(given: dict[str, str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build(DistributedConfig, given)
