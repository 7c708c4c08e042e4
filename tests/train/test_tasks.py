"""Several tasks in one model: what they share, what each owns, mixed in every batch of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from burnish.cli.main import call
from burnish.core.errors import UserError
from burnish.core.types import Batch
from burnish.models.forward import hidden_states
from burnish.train.config import RunConfig
from burnish.train.handover import load_handed_over
from burnish.train.run import start_run
from burnish.train.setup import set_up
from burnish.train.verify import verify_run
from tests.support.recipes import configured, sentiment_rows, write_rows

ADAPTER = [
    {"method": "lora", "rank": 4, "targets": "mlp", "name": "shared"},
    {"method": "lora", "rank": 2, "targets": "attention", "name": "mood", "tasks": ["sentiment"]},
    {"method": "lora", "rank": 2, "targets": "attention", "name": "copy", "tasks": ["echo"]},
]


def two_tasks(folder: Path, **sections: Any) -> RunConfig:
    """Sentiment of 40 texts, and 40 texts to be repeated: the same prompts, other answers."""
    moods = list(sentiment_rows(40))
    echoes = [{"prompt": row["prompt"], "completion": " " + row["prompt"].split()[3]} for row in moods]
    sources = [
        {"path": str(write_rows(folder / f"{task}.jsonl", rows)), "task": task}
        for task, rows in (("sentiment", moods), ("echo", echoes))
    ]
    return configured(
        folder, adapter=ADAPTER, data={"train": sources, "split": {"validation": 8, "test": 8}}, **sections
    )


def test_rows_keep_their_task_and_are_no_duplicates_of_another_task(tmp_path: Path) -> None:
    """All 80 rows stay, though every prompt is there twice; a batch names the task of each of its rows."""
    setup = set_up(two_tasks(tmp_path))
    tables = [setup.prepared.table(name) for name in ("train", "validation", "test")]
    assert sum(map(len, tables)) == 80
    batch = setup.updates[0][0]
    assert set(batch["tasks"]) == {"sentiment", "echo"}
    examples = setup.prepared.examples["test"]
    assert [e.task for e in examples] == list(tables[2].tasks_of(range(8)))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_mixed_run_trains_hands_over_and_verifies(tmp_path: Path, checkpointing: bool) -> None:
    config = two_tasks(tmp_path, train={"max_steps": 8, "gradient_checkpointing": checkpointing})
    result = start_run(config)
    assert result.tuned["loss"] < result.base["loss"]
    assert all(check.passed for check in verify_run(result.folder))
    tensors = load_file(result.folder / "final" / "adapter.safetensors")
    for key in ("shared", "mood", "copy"):
        assert any(f".{key}." in name and name.endswith("B") and bool(t.any()) for name, t in tensors.items())
    loaded = load_handed_over(result.folder, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7, 8]])
    batches: list[Batch] = [{"input_ids": ids, "tasks": (task,)} for task in ("sentiment", "echo")]
    with torch.no_grad():
        first, second = (hidden_states(loaded.model, batch) for batch in batches)
    assert not torch.allclose(first, second)


def test_answers_need_the_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(start_run(two_tasks(tmp_path)).folder)
    assert call(["generate", folder, "one two", "--task", "echo", "--json", "--max-new-tokens", "2"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "one two"
    assert call(["generate", folder, "one two"]) == 2
    assert "--task NAME" in capsys.readouterr().err
    assert call(["generate", folder, "one two", "--task", "ecco"]) == 2
    assert "nearest: `echo`" in capsys.readouterr().err


def test_a_task_that_no_source_names_is_refused(tmp_path: Path) -> None:
    config = configured(tmp_path, adapter=ADAPTER)
    with pytest.raises(UserError, match="no source in `data` names the task `sentiment`"):
        set_up(config)
