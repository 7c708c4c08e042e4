"""What an engine promises without other processes: whole tensors or none, one process that is unchanged, agreement."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from burnish.core.config import build
from burnish.core.errors import TrainingStopped, UserError
from burnish.core.events import LowerRate, Stop
from burnish.train.config import RunConfig
from burnish.train.distributed.ddp import BUCKET, buckets
from burnish.train.distributed.engine import Engine, Whole
from burnish.train.distributed.group import Group
from burnish.train.folder import RunFolder
from burnish.train.loop import settled
from burnish.train.lr_range import range_test
from burnish.train.retention import FILE
from burnish.train.score import Scorer
from burnish.train.setup import set_up
from tests.support.recipes import configured, recipe, write_rows


def prepared() -> Engine:
    engine, model = Engine(), nn.Linear(3, 2)
    engine.prepare(Whole(model), list(model.named_parameters()))
    return engine


def test_a_tensor_that_is_empty_here_is_never_written() -> None:
    """ZeRO-3 leaves a tensor of no elements in the place of a weight; its shape is not the one from before."""
    engine = prepared()
    engine.inventory({"weight": torch.ones(2, 3), "bias": torch.ones(2)})
    with pytest.raises(TrainingStopped, match="1 of 2 trained tensors are not whole") as caught:
        engine.inventory({"weight": torch.ones(0), "bias": torch.ones(2)})
    assert "(0,)" in caught.value.where and "(2, 3)" in caught.value.where


def test_a_tensor_that_is_missing_is_seen() -> None:
    with pytest.raises(TrainingStopped, match="bias is missing"):
        prepared().inventory({"weight": torch.ones(2, 3)})


def test_buckets_hold_every_parameter_once_in_the_order_of_the_backward_pass() -> None:
    """Three of 10 MB: the last two fit into 25 MB together; another format begins a bucket of its own."""
    size = (10 << 20) // 4
    parameters = [nn.Parameter(torch.empty(size)) for _ in range(3)]
    half = nn.Parameter(torch.empty(4, dtype=torch.bfloat16))
    found = buckets([half, *parameters])
    assert [[id(p) for p in bucket] for bucket in found] == [
        [id(parameters[2]), id(parameters[1])],
        [id(parameters[0])],
        [id(half)],
    ]
    assert all(sum(p.nbytes for p in bucket) <= BUCKET for bucket in found)


class Two(Group):
    """The second of two processes, whose main one asks for something and was not interrupted."""

    rank, size = 1, 2

    def table(self, values: object) -> list[list[float]]:
        """The main process's row, and this one's."""
        return [[0.0, 1.0], list(values)]  # type: ignore[call-overload]

    def of_main(self, value: object) -> object:  # type: ignore[override]
        """What the main process asks for."""
        return (LowerRate(0.5),)


def test_all_processes_do_what_the_main_ones_callbacks_ask_for() -> None:
    """A process beside it goes by the main one's word; an interruption of any of them is one of all."""
    assert settled(Two(), (Stop("mine"),), False) == ((LowerRate(0.5),), False)
    assert settled(Two(), (), True)[1]
    assert settled(Group(), (Stop("mine"),), False) == ((Stop("mine"),), False)


def test_a_refusal_of_the_main_process_is_raised() -> None:
    def refuse() -> None:
        raise UserError("no room", where="here", fix="make some")

    with pytest.raises(UserError, match="no room"):
        Group().on_main(refuse)


class Late(Group):
    """A process that sees a file which the main one has written since it decided to."""

    rank, size, met = 1, 2, 0

    def of_main(self, value: object) -> object:  # type: ignore[override]
        """The main process found no file."""
        return False

    def on_main(self, action: object) -> None:  # type: ignore[override]
        """What the main process does, this one waits for."""
        self.met += 1


def test_a_process_that_is_late_goes_the_way_of_the_main_one(tmp_path: Path) -> None:
    """The original's answers lie there already; the main process waits in the call behind which it wrote them."""
    known = write_rows(tmp_path / "known.jsonl", [{"text": "the cat sat on the mat", "domain": "cats"}])
    setup = set_up(configured(tmp_path, evaluate={"samples": 0, "retention": {"sources": str(known)}}))
    retention, folder = Scorer(setup, []).retention, RunFolder(tmp_path / "run")
    retention.before(folder)
    assert (folder.path / FILE).is_file()
    setup.engine.group = late = Late()
    retention.before(folder)
    assert late.met == 1


def test_the_range_test_tries_the_same_updates_on_one_process(tmp_path: Path) -> None:
    """With an engine in the recipe or without: the same losses to the bit."""
    values = recipe(tmp_path, rows=60)
    one, many = (build(RunConfig, {**values, "distributed": engine}) for engine in ("none", "ddp"))
    assert range_test(one, updates=10).losses == range_test(many, updates=10).losses
