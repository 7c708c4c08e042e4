"""A run from end to end on tiny models: its folder, its best checkpoint, resuming, stopping, refusing."""

from __future__ import annotations

import json
import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save
from transformers import AutoModelForCausalLM

from burnish.core.errors import TrainingStopped, UserError
from burnish.core.events import Action, Evaluated, Event, Save, Saved, Stepped, Stop
from burnish.core.files import read_lines
from burnish.train.folder import RunFolder
from burnish.train.run import resume_run, start_run
from burnish.train.score import base_counts
from burnish.train.state import TrainState
from tests.support.recipes import LABELS, configured, save_tiny


def metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [row for row in read_lines(folder / "metrics.jsonl") if row["kind"] == kind]


def test_a_run_leaves_everything_on_disk(tmp_path: Path) -> None:
    """Six updates of 8 rows with evaluation every 3: six lines, two evaluations, base and tuned on 12 rows."""
    result = start_run(configured(tmp_path, evaluate={"choices": LABELS}))
    folder = result.folder
    names = {p.name for p in folder.iterdir()}
    assert names >= {
        "recipe.yaml", "environment.json", "data.json", "model.json", "findings.jsonl", "metrics.jsonl", "checkpoints",
        "best.json", "final", "base.json", "evaluation.json", "predictions.jsonl", "samples.jsonl",
    }  # fmt: skip
    assert result.reason == "completed" and result.step == 6
    assert [row["step"] for row in metrics(folder, "train")] == [1, 2, 3, 4, 5, 6]
    assert [row["step"] for row in metrics(folder, "validation")] == [3, 6]
    assert {"loss", "accuracy", "macro_f1"} <= metrics(folder, "validation")[0].keys()
    ended = metrics(folder, "finished")[0]
    assert ended["tokens"] == sum(row["tokens"] for row in metrics(folder, "train"))
    assert ended["peak_memory_bytes"] > 0
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["rows"] == 12 == len(read_lines(folder / "predictions.jsonl"))
    assert sum(map(sum, evaluation["tuned"]["confusion"]["counts"])) == 12
    assert len(read_lines(folder / "samples.jsonl")) == 2
    assert result.tuned["loss"] < result.base["loss"]


def test_the_rows_are_learnt(tmp_path: Path) -> None:
    """The label follows from the words: 100 updates take a random model from chance, a third, to all 12 test rows."""
    settings = {"train": {"max_steps": 100}, "evaluate": {"choices": LABELS, "every_steps": 50}}
    config = configured(tmp_path, rows=300, adapter="full", **settings)
    save_tiny(tmp_path / "model", spread=1.0)
    result = start_run(config)
    assert result.base["accuracy"] < 0.7
    assert result.tuned["accuracy"] == 1.0


@pytest.mark.parametrize("model", ["gpt2", "t5"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_other_architectures_run(tmp_path: Path, model: str, method: str) -> None:
    result = start_run(configured(tmp_path, model=model, adapter=method, evaluate={"choices": LABELS}))
    assert result.tuned["loss"] < result.base["loss"]
    reopened, _ = result.load()
    assert reopened.config.model_type == model


def test_the_best_checkpoint_is_what_the_run_hands_over(tmp_path: Path) -> None:
    """A learning rate that wrecks the model after a good start: the handed-over loss is the lowest of all evaluations.

    Constant rate 0.05 without warm-up on full tuning, evaluated after each of 12 updates.
    """
    train = {"learning_rate": 0.05, "schedule": "constant", "warmup_ratio": 0.0, "max_steps": 12}
    config = configured(
        tmp_path, adapter="full", train=train, evaluate={"every_steps": 1}, data={"split": {"validation": 12}}
    )
    result = start_run(config)
    seen = {row["step"]: row["loss"] for row in metrics(result.folder, "validation")}
    best = min(seen, key=lambda step: seen[step])
    note = json.loads((result.folder / "best.json").read_text())
    assert result.best_step == note["step"] == best and best != 12
    assert result.tuned["loss"] == pytest.approx(seen[best], rel=1e-6)
    improved = [row["step"] for row in metrics(result.folder, "validation") if row["improved"]]
    assert improved[-1] == best
    kept = AutoModelForCausalLM.from_pretrained(result.folder / "final")
    loaded, _ = result.load()
    ids = torch.arange(4, 20)[None]
    torch.testing.assert_close(kept(ids).logits, loaded(ids).logits)


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("cut", [2, 3, 5])
def test_resuming_is_exact(tmp_path: Path, method: str, cut: int) -> None:
    """Stopped after ``cut`` of 7 updates and resumed, a run ends with the weights, moments and log of one in one go.

    Equal to the bit: same rows, same order, same dropout masks. Evaluation every 3, so ``cut`` falls before, on and
    after one.
    """
    adapter = {"method": "lora", "rank": 4, "dropout": 0.2} if method == "lora" else "full"
    settings: dict[str, Any] = {
        "adapter": adapter,
        "train": {"max_steps": 7, "num_epochs": 3},
        "data": {"split": {"validation": 8}},
    }
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole = start_run(configured(tmp_path / "a", **settings))

    def stop(event: Event) -> Action | None:
        if isinstance(event, Stepped) and event.step == cut:
            os.kill(os.getpid(), signal.SIGINT)
        return None

    config = configured(tmp_path / "b", **settings)
    stopped = start_run(config, callbacks=[stop])
    assert stopped.reason == "interrupted" and stopped.step == cut
    assert not (stopped.folder / "evaluation.json").exists()
    assert metrics(stopped.folder, "stopped") == [{"kind": "stopped", "step": cut, "reason": "interrupted"}]
    resumed = resume_run(stopped.folder)
    assert resumed.step == 7 and resumed.best_step == whole.best_step
    assert not metrics(stopped.folder, "stopped")
    assert resumed.tuned == whole.tuned and resumed.base == whole.base
    for file in ("trainable", "optimizer"):
        ours, theirs = (r.folder / f"checkpoints/step-000007/{file}.safetensors" for r in (resumed, whole))
        assert ours.read_bytes() == theirs.read_bytes()
    for kind in ("train", "validation"):
        timeless = [
            [{k: v for k, v in row.items() if "second" not in k} for row in metrics(r.folder, kind)]
            for r in (whole, resumed)
        ]
        assert timeless[0] == timeless[1]


def test_a_complete_run_is_not_resumed(tmp_path: Path) -> None:
    result = start_run(configured(tmp_path))
    with pytest.raises(UserError, match="complete"):
        resume_run(result.folder)


def interrupted_run(tmp_path: Path) -> Path:
    def stop(event: Event) -> None:
        if isinstance(event, Stepped) and event.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    return start_run(configured(tmp_path), callbacks=[stop]).folder


def test_resuming_on_other_data_is_refused(tmp_path: Path) -> None:
    folder = interrupted_run(tmp_path)
    rows = (tmp_path / "rows.jsonl").read_text().splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(row.replace("day", "night") for row in rows))
    with pytest.raises(UserError, match="other rows"):
        resume_run(folder)


def test_resuming_on_another_base_is_refused(tmp_path: Path) -> None:
    folder = interrupted_run(tmp_path)
    save_tiny(tmp_path / "model", "llama", seed=1)
    with pytest.raises(UserError, match="base model"):
        resume_run(folder)


def test_early_stopping(tmp_path: Path) -> None:
    """No gain reaches 1.0 at this rate: the first evaluation stays the best, and patience 2 ends at the third."""
    config = configured(
        tmp_path,
        train={"learning_rate": 1e-5, "max_steps": 50},
        evaluate={"every_steps": 2},
        early_stopping={"patience": 2, "min_improvement": 1.0},
    )
    result = start_run(config)
    assert (result.reason, result.step, result.best_step) == ("early-stopping", 6, 2)


def test_state_records_the_best() -> None:
    """Losses 3, 2, 2.5, NaN, 1.95 with a least improvement of 0.1: best at 2, then three evaluations without one."""
    state = TrainState()
    heard = []
    for state.step, value in enumerate((3.0, 2.0, 2.5, math.nan, 1.95), start=1):
        heard.append(state.record("loss", value, 0.1))
    assert heard == [True, True, False, False, False]
    assert (state.best_step, state.best_value, state.bad_evaluations) == (2, 2.0, 3)
    assert TrainState.from_json(json.loads(json.dumps(state.to_json()))) == state


def test_callbacks_can_stop_and_save(tmp_path: Path) -> None:
    """Asked to save after update 1 and to stop after update 4; the last checkpoint is that of step 4."""
    saved: list[int] = []

    def listen(event: Event) -> Action | None:
        if isinstance(event, Saved):
            saved.append(event.step)
        if isinstance(event, Stepped):
            return {1: Save(), 4: Stop("enough")}.get(event.step)
        return None

    result = start_run(configured(tmp_path), callbacks=[listen])
    assert (result.reason, result.step) == ("enough", 4)
    assert saved == [1, 3, 4]


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    config = configured(tmp_path)
    result = start_run(config)
    before = {p: p.stat().st_mtime_ns for p in result.folder.rglob("*")}
    with pytest.raises(UserError, match="already exists") as caught:
        start_run(config)
    assert "--force" in caught.value.fix
    assert {p: p.stat().st_mtime_ns for p in result.folder.rglob("*")} == before


def test_force_replaces_a_run_and_nothing_else(tmp_path: Path) -> None:
    config = configured(tmp_path)
    folder = RunFolder(config.folder)
    config.folder.mkdir(parents=True)
    (config.folder / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="no run"):
        start_run(config, force=True)
    assert (config.folder / "thesis.txt").read_text() == "years of work"
    (config.folder / "thesis.txt").unlink()
    start_run(config)
    (folder.path / "mark").touch()
    start_run(config, force=True)
    assert not (folder.path / "mark").exists()
    assert [p.name for p in config.folder.parent.iterdir()] == ["run"]


def test_a_refused_recipe_leaves_the_old_run(tmp_path: Path) -> None:
    """--force with a model that does not exist: the old run is still there."""
    result = start_run(configured(tmp_path))
    broken = configured(tmp_path).model_copy(
        update={"model": configured(tmp_path).model.model_copy(update={"path": "./no"})}
    )
    with pytest.raises(UserError):
        start_run(broken, force=True)
    assert (result.folder / "evaluation.json").is_file()


def test_a_loss_that_is_not_finite_stops_before_the_update(tmp_path: Path) -> None:
    """One weight of the base is NaN: the first update is refused, nothing is handed over."""
    config = configured(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(config.model.path)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = math.nan
    model.save_pretrained(config.model.path)
    with pytest.raises((TrainingStopped, UserError)):
        start_run(config)
    assert not (config.folder / "final").exists()


def test_gradient_checkpointing_gives_the_same_run(tmp_path: Path) -> None:
    """Recomputing activations repeats the same operations: losses are equal to 1e-6."""
    losses = []
    for on in (False, True):
        (tmp_path / str(on)).mkdir()
        result = start_run(configured(tmp_path / str(on), train={"gradient_checkpointing": on}))
        losses.append([row["loss"] for row in metrics(result.folder, "train")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_evaluations_are_heard(tmp_path: Path) -> None:
    heard: list[Evaluated] = []
    start_run(configured(tmp_path), callbacks=[lambda e: heard.append(e) if isinstance(e, Evaluated) else None])
    assert [e.step for e in heard] == [3, 6] and heard[0].improved


def test_units_of_held_out_rows_are_read_as_they_were_kept_at_first_and_now(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write("base.json", {"counts": [1.0, 3.0]})
    assert base_counts(folder).tolist() == [1.0, 3.0]
    (tmp_path / "base.safetensors").write_bytes(save({"counts": np.array([2.0, 5.0])}))
    assert base_counts(folder).tolist() == [2.0, 5.0]
