"""Reading runs of other tools: the state that transformers' own Trainer writes, and TensorBoard's own events."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import Trainer, TrainingArguments

from burnish.cli.main import call
from burnish.core.errors import UserError
from burnish.data.batches import epoch_order
from burnish.diagnose.runs import read_series, run_facts
from tests.support.tiny import tiny, tiny_inputs


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight updates of the real Trainer on a tiny model, with evaluations, at a rate that blows it up."""
    folder = tmp_path_factory.mktemp("trainer")
    rows = tiny_inputs("llama", rows=8)["input_ids"]
    data = [{"input_ids": row, "labels": row} for row in rows]
    arguments = TrainingArguments(
        str(folder), max_steps=8, per_device_train_batch_size=4, learning_rate=1.0, logging_steps=1,
        eval_strategy="steps", eval_steps=4, save_steps=8, report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    torch.manual_seed(0)
    Trainer(tiny("llama").train(), arguments, train_dataset=data, eval_dataset=data).train()
    return folder


def test_the_trainers_own_state(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Losses, norms and evaluations are those of `log_history`; the newest checkpoint of a folder is taken."""
    state = trained / "checkpoint-8/trainer_state.json"
    history = json.loads(state.read_text())["log_history"]
    series = read_series(trained)
    assert series.loss.tolist() == [row["loss"] for row in history if "loss" in row]
    assert series.grad_norm.tolist() == [row["grad_norm"] for row in history if "loss" in row]
    assert series.scores.tolist() == [row["eval_loss"] for row in history if "eval_loss" in row]
    assert series.facts.total == 8 and len(series) == 8
    assert call(["diagnose", str(state), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["updates"] == 8 and told["evaluations"] == 2
    assert {"loss.rate-too-high", "loss.diverged"} & {finding["code"] for finding in told["findings"]}


def test_tensorboards_own_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What TensorBoard's writer wrote comes back, in fp32, and the table of the verdict is printed."""
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(tmp_path / "tb")) as writer:
        for step in range(1, 31):
            writer.add_scalar("train/loss", 2.0 + 0.2 * step, step)
            writer.add_scalar("train/grad_norm", 1.0, step)
        writer.add_scalar("eval/loss", 1.5, 15)
    series = read_series(tmp_path)
    assert series.loss.tolist() == pytest.approx([2.0 + 0.2 * step for step in range(1, 31)], rel=1e-6)
    assert series.scores.tolist() == [1.5]
    assert call(["diagnose", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "1 fault" in out and "since" in out and "step" in out


def test_rows_follow_from_the_recipe() -> None:
    """20 rows in updates of 8 are 3 updates an epoch; the fifth is the second stretch of the second epoch's order."""
    recipe = {"seed": 3, "train": {"batch_size": 8}, "data": {"shuffle": True}}
    facts = run_facts(recipe, {"task": "classification", "head": {"labels": ["a", "b"]}, "chance_loss": 0.6}, {
        "splits": {"train": {"rows": 20}}
    })  # fmt: skip
    assert facts.rows is not None
    assert list(facts.rows(5)) == epoch_order(20, seed=3, epoch=1)[8:16].tolist()
    assert facts.uniform == pytest.approx(math.log(2)) and facts.chance == 0.6 and not facts.text


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"log_history": 3}'])
def test_what_is_no_run_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "trainer_state.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError) as refused:
        read_series(path)
    assert refused.value.where and refused.value.fix
