"""What an engine cannot carry is refused by name before any process starts: exit code 2, the setting, the fix."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from burnish.api import load_recipe
from burnish.cli.main import call
from burnish.compare.trials import Wanted, prepare
from burnish.compare.variants import read_variants
from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.train.config import RunConfig
from burnish.train.distributed import refusals
from burnish.train.distributed.engine import Engine
from burnish.train.distributed.launch import Launch, check
from burnish.train.distributed.refusals import REFUSALS, refuse
from burnish.train.distributed.table import ENGINES, open_engine
from tests.distributed.cases import CARRIED, values
from tests.support.recipes import recipe

UNCARRIED: dict[str, dict[str, Any]] = {
    "adapter.method": {"adapter": {"method": "adalora"}},
    "train.precision": {"train": {"precision": "fp16"}},
    "memory.optimizer": {"memory": {"optimizer": "adamw_8bit"}},
    "memory.activation_offload": {"memory": {"activation_offload": True}},
    "regularizers": {"regularizers": [{"kind": "l2_sp"}]},
    "checkpoint.ema": {"checkpoint": {"ema": {"decay": 0.9}}},
}


def configuration(folder: Path, engine: str, **sections: Any) -> RunConfig:
    return build(RunConfig, {**recipe(folder, **sections), "distributed": engine})


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed may be missing here; what is refused beside it does not depend on that."""
    monkeypatch.setattr(refusals, "find_spec", lambda name: object())


@pytest.mark.parametrize(("engine", "where"), [(e, w) for e in ("fsdp2", "zero2", "zero3") for w in UNCARRIED])
def test_a_setting_that_an_engine_cannot_carry(tmp_path: Path, engine: str, where: str) -> None:
    """Each is refused by its own name exactly where the table says so; `ddp` carries all of them."""
    config = configuration(tmp_path, engine, **UNCARRIED[where])
    listed = {refusal.where for refusal in REFUSALS[config.distributed.engine]}
    refuse(configuration(tmp_path, "ddp", **UNCARRIED[where]), 2)
    if where not in listed:
        refuse(config, 2)
        return
    with pytest.raises(UserError, match=f"`{engine}` cannot carry this") as caught:
        refuse(config, 2)
    assert caught.value.where == where and caught.value.fix


@pytest.mark.parametrize("engine", ["fsdp2", "zero1", "zero2", "zero3"])
def test_products_in_8_bits(tmp_path: Path, engine: str) -> None:
    """Refused under the name that fp16 has too; `ddp` carries them."""
    sections = {"train": {"precision": "int8"}}
    refuse(configuration(tmp_path, "ddp", **sections), 2)
    with pytest.raises(UserError, match="rounded from whole ones") as caught:
        refuse(configuration(tmp_path, engine, **sections), 2)
    assert caught.value.where == "train.precision" and "ddp" in caught.value.fix


def test_what_the_matrix_carries_is_not_refused(tmp_path: Path) -> None:
    for engine, cases in CARRIED.items():
        for case in cases:
            refuse(build(RunConfig, values(tmp_path, case, "run", engine)), 2)


def test_rows_of_several_tasks(tmp_path: Path) -> None:
    config = build(RunConfig, values(tmp_path, "tasks", "run", "fsdp2"))
    with pytest.raises(UserError, match="wait for each other") as caught:
        refuse(config, 2)
    assert "ddp" in caught.value.fix


def test_every_engine_is_in_both_tables() -> None:
    assert ENGINES.keys() == REFUSALS.keys() and {"none", *CARRIED} == set(ENGINES)


def test_an_engine_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="deepspeed, which is not installed") as caught:
        refuse(configuration(tmp_path, "zero2"), 2)
    assert "burnish[distributed]" in caught.value.fix


def test_more_processes_than_rows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="9 processes cannot share 8 rows"):
        refuse(configuration(tmp_path, "ddp"), 9)


def test_comparisons_make_their_runs_on_one_process(tmp_path: Path) -> None:
    wanted = Wanted(configuration(tmp_path, "ddp"), read_variants("lora"), 1, tmp_path)
    with pytest.raises(UserError, match="on one process each") as caught:
        prepare(wanted)
    assert caught.value.where == "distributed.engine"


def test_offload_that_an_engine_has_not(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="`ddp` cannot offload `parameters`"):
        build(RunConfig, {**recipe(tmp_path), "distributed": {"engine": "ddp", "offload": "parameters"}})


def test_offload_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = build(RunConfig, {**recipe(tmp_path), "distributed": {"engine": "zero3", "offload": "parameters"}})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="no GPU here") as caught:
        refuse(config, 2)
    assert caught.value.where == "distributed.offload"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refuse(config, 2)


@pytest.mark.parametrize("name", ["several-gpus", "several-machines", "little-memory"])
def test_ready_recipes_are_carried(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    check(load_recipe(name), Launch(8))


def test_a_recipe_with_an_engine_says_how_it_is_started(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not started as one of several") as caught:
        open_engine(configuration(tmp_path, "ddp"))
    assert "burnish launch" in caught.value.fix and "torchrun" in caught.value.fix


def test_several_processes_need_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes with a recipe for one would each train on all rows, and write one folder."""
    config = build(RunConfig, recipe(tmp_path))
    assert type(open_engine(config)) is Engine
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "x", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="2 processes were started, and the recipe is for one"):
        open_engine(config)


@pytest.mark.parametrize(
    ("launch", "where"),
    [
        (Launch(2, nodes=2), "--master"),
        (Launch(2, master="node0"), "--master"),
        (Launch(2, nodes=2, node_rank=2, master="node0:1"), "--node-rank"),
        (Launch(5, nodes=2, master="node0:1"), "train.batch_size"),
    ],
)
def test_numbers_that_contradict_each_other(tmp_path: Path, launch: Launch, where: str) -> None:
    with pytest.raises(UserError) as caught:
        check(configuration(tmp_path, "ddp"), launch)
    assert caught.value.where == where


def test_the_command_refuses_before_it_starts_anything(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["burnish.train.distributed.launch"].subprocess, "Popen", None)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(tmp_path)))
    assert call(["launch", str(path), "--processes", "2"]) == 2
    assert "names no engine" in capfd.readouterr().err
    assert call(["launch", str(path), "distributed.engine=fsdp2", "train.precision=fp16", "--processes", "2"]) == 2
    said = capfd.readouterr().err
    assert "train.precision" in said and "Traceback" not in said
