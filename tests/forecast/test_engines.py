"""The plan of a recipe whose `distributed` section names an engine: for the command, and before a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from burnish.cli.main import call
from burnish.core.config import build
from burnish.core.engines import OFFLOADS
from burnish.core.errors import UserError
from burnish.core.machine import memory
from burnish.forecast.finding import Foresight
from burnish.plan.engines import Engine
from burnish.train.config import RunConfig
from burnish.train.tasks import read_data
from tests.support.recipes import recipe


@pytest.fixture
def plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command says of a recipe, as JSON."""

    def said(section: Any, *arguments: str) -> dict[str, Any]:
        values = recipe(tmp_path, **({"distributed": section} if section else {}))
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(values))
        assert call(["plan", str(tmp_path / "recipe.yaml"), "--card", "RTX 4090", "--json", *arguments]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out)["memory"]
        return found

    return said


def test_the_command_follows_the_recipe_and_options_go_before_it(plan: Any) -> None:
    """Under zero3 on four devices weights are a quarter, as `--engine` gives for a recipe without the section."""
    section = {"engine": "zero3", "offload": "optimizer"}
    found = plan(section, "--processes", "4")
    assert found["engine"] == {"name": "zero3", "processes": 4, "offload": "optimizer"}
    assert found == plan(None, "--engine", "zero3", "--offload", "optimizer", "--processes", "4")
    whole, parted = (one["phases"][0]["parts"]["weights"] for one in (plan(None), found))
    assert parted == -(-whole // 4)
    assert plan(section, "--engine", "ddp", "--processes", "2")["engine"] == {
        "name": "ddp", "processes": 2, "offload": "none"}  # fmt: skip
    assert plan(section, "--engine", "none")["engine"]["processes"] == 1


def test_the_plan_before_a_run_is_that_of_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes on a processor, three of them here: fsdp2's quarter of the weights, the mapped files beside it.

    They share this machine's memory, of which each has a third; pages of files are not held against it.
    """
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path))
    config = build(RunConfig, recipe(tmp_path))
    alone, several = Foresight(), Foresight()
    rows = read_data(config)
    assert alone(config, rows) == []
    for name, value in {
        "RANK": 0,
        "WORLD_SIZE": 4,
        "LOCAL_WORLD_SIZE": 3,
        "MASTER_ADDR": "a",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    assert several(build(RunConfig, {**recipe(tmp_path), "distributed": "fsdp2"}), rows) == []
    whole, found = alone.plan["memory"], several.plan["memory"]
    assert found["engine"] == {"name": "fsdp2", "processes": 4, "offload": "none"}
    weights = whole["phases"][0]["parts"]["weights"]
    assert found["phases"][0]["parts"]["weights"] == -(-weights // 4)
    assert found["mapped_bytes"] == weights == found["phases"][1]["parts"]["mapped weights"]
    if found["device"] == "cpu":
        assert found["limit_bytes"] == pytest.approx(memory().total / 3, rel=0.01)


@pytest.mark.parametrize("name", OFFLOADS)
def test_a_plan_and_a_recipe_refuse_the_same_offloads(name: Any, tmp_path: Path) -> None:
    for kind in ("none", "optimizer", "parameters"):
        section = {"engine": name, "offload": kind}
        if kind in OFFLOADS[name]:
            assert Engine(name, 1 if name == "none" else 2, kind).offload == kind
            build(RunConfig, {**recipe(tmp_path), "distributed": section})
            continue
        with pytest.raises(UserError):
            Engine(name, 1 if name == "none" else 2, kind)
        with pytest.raises(UserError):
            build(RunConfig, {**recipe(tmp_path), "distributed": section})
