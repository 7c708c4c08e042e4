"""What can be done with a finished run: the line to its original, averages, their exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.checkpoint.store import CheckpointStore
from burnish.cli.main import call
from burnish.compare import afterwards
from burnish.compare.statistics import Estimate
from burnish.core.errors import UserError
from burnish.train.ema import averaged
from burnish.train.handover import load_handed_over, open_model
from burnish.train.rescore import Target
from burnish.train.run import start_run
from tests.support.recipes import LABELS, configured
from tests.support.tiny import tiny

IDS = torch.tensor([[5, 17, 33, 9, 120, 4]])


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that keeps all of its checkpoints, with a moving average."""
    folder = tmp_path_factory.mktemp("run")
    config = configured(
        folder,
        checkpoint={"every_steps": 2, "keep": 9, "ema": {"decay": 0.5, "hand_over": False}},
        evaluate={"choices": list(LABELS), "samples": 0},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("burnish.train.run.read_back", lambda path: [])
        return start_run(config).folder


def meter(kept: dict[float, float]) -> Any:
    """A stand-in for the retention set: what is kept by how far the model is from its original."""

    def made(target: Target) -> Any:
        values = iter(kept.values())

        def measure() -> Estimate:
            value = next(values)
            return Estimate(value, value - 0.001, value + 0.001, (value,))

        return measure

    return made


def test_the_ends_score_as_original_and_tuned_and_the_choice_is_written(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a tolerance of 2 %, alpha 0.5 is the last that keeps 0.98; its export is the adapter with B halved."""
    monkeypatch.setattr(afterwards, "meter_of", meter({0.0: 1.0, 0.5: 0.985, 1.0: 0.9}))
    monkeypatch.setattr(afterwards, "deciding", lambda config: "loss")
    result = afterwards.interpolate_run(finished, [0.5], 0.02)
    assert [option.label for option in result.options] == ["alpha 0", "alpha 0.5", "alpha 1"]
    losses = [option.task.value for option in result.options]
    assert losses[0] > losses[1] > losses[2]  # the tiny model has learnt something
    assert result.advice is not None and result.advice.label == "alpha 0.5" and result.advice.within
    tuned, between = load_handed_over(finished).model, open_model(str(result.export)).model
    own = {n: p for n, p in tuned.named_parameters() if n.endswith(".B")}
    found = dict(between.named_parameters())
    assert own and all(torch.equal(found[name], 0.5 * p) for name, p in own.items())
    assert json.loads((finished / "interpolation.json").read_text())["advice"]["label"] == "alpha 0.5"


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_exports_of_the_ends_are_the_ends(finished: Path, monkeypatch: pytest.MonkeyPatch, alpha: float) -> None:
    """Advice for 0 or for 1: the export has the original's logits, or those of the run, to the bit."""
    kept = {0.0: 1.0, 1.0: 1.0 if alpha else 0.5}
    monkeypatch.setattr(afterwards, "meter_of", meter(kept))
    monkeypatch.setattr(afterwards, "deciding", lambda config: "loss")
    result = afterwards.interpolate_run(finished, [], 0.01)
    wanted = load_handed_over(finished).model if alpha else tiny("llama")
    assert torch.equal(logits(open_model(str(result.export)).model), logits(wanted))


def test_a_model_that_was_tuned_whole(tmp_path: Path) -> None:
    """Full tuning: nothing measures retention here, so the best of the task is written, as a model folder."""
    run = start_run(configured(tmp_path, adapter={"method": "full"}, evaluate={"samples": 0})).folder
    result = afterwards.interpolate_run(run, [0.5])
    assert result.metric == "loss" and result.advice is not None and "not measured" in result.advice.words[0]
    assert (result.export / "model.safetensors").is_file()
    opened = open_model(str(result.export)).model
    if result.advice.label == "alpha 1":
        assert torch.equal(logits(opened), logits(load_handed_over(run).model))


def test_the_mean_of_checkpoints(finished: Path) -> None:
    """The last two of the updates 2, 4 and 6 (3 is there too: every evaluation saves the best): (w_a + w_b) / 2."""
    store = CheckpointStore(finished / "checkpoints")
    result = afterwards.average_run(finished, last=2)
    one, other = (store.load(step).tensors["trainable"] for step in store.steps()[-2:])
    found = dict(open_model(str(result.export)).model.named_parameters())
    for name, tensor in one.items():
        torch.testing.assert_close(found[name].double(), (tensor.double() + other[name].double()) / 2)
    assert result.options[0].label == "handed over"
    moving = afterwards.average_run(finished, ema=True)
    best = json.loads((finished / "best.json").read_text())["step"]
    found = dict(open_model(str(moving.export)).model.named_parameters())
    assert all(torch.equal(found[name], tensor) for name, tensor in averaged(store.load(best).tensors).items())


def test_through_the_command_line(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["interpolate", str(finished), "--alphas", "0.5"]) == 0
    told = capsys.readouterr().out
    assert "not measured" in told and "alpha" in told and "interpolated" in told
    assert "<table>" in (finished / "interpolation.html").read_text()
    assert call(["average", str(finished), "--last", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["of"].startswith("mean of 2 checkpoints")
    for wrong in (["--alphas", "0,2"], ["--alphas", "x"], ["--tolerance", "200%"]):
        assert call(["interpolate", str(finished), *wrong]) == 2


def test_what_cannot_be_done_says_so(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="and 9 are wanted"):
        afterwards.average_run(finished, last=9)
    settings = {"adapter": {"method": "lora", "dora": True}, "evaluate": {"samples": 0}, "train": {"max_steps": 1}}
    run = start_run(configured(tmp_path, **settings)).folder
    with pytest.raises(UserError, match="no change of the weights"):
        afterwards.interpolate_run(run)
    with pytest.raises(UserError, match="average needs two"):
        afterwards.average_run(run)
