"""Training in stages: what moves when, at which rate, and resuming inside any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from burnish.core.errors import UserError
from burnish.core.events import Action, Event, Stepped, Stop
from burnish.core.files import read_lines
from burnish.optim.config import OptimConfig
from burnish.train.config import RunConfig, load_run
from burnish.train.run import resume_run, start_run
from burnish.train.stage_config import StageConfig
from burnish.train.stages import Stage, Trained, plan_stages
from tests.support.recipes import configured

HYBRID = [
    {"method": "lora", "rank": 4, "targets": "attention", "name": "reader"},
    {"method": "lora", "rank": 2, "targets": "mlp", "dropout": 0.1},
]
STAGES = [
    {"train": "reader", "steps": 3, "learning_rate": 0.01},
    {"train": "lora", "steps": 2, "learning_rate": 0.02, "schedule": "constant", "warmup_steps": 0},
    {"train": "all", "steps": 4, "learning_rate": 0.005},
]
NAMES = ("a.reader.A", "a.reader.B", "b.lora.A", "b.lora.B")
TRAINED = Trained(
    names=NAMES,
    entries={"reader": frozenset(NAMES[:2]), "lora": frozenset(NAMES[2:])},
    rates={"reader": (1e-3, "slow"), "lora": (4e-3, "fast")},
    scales={"b.lora.B": 16.0},
)


def staged(folder: Path, name: str = "run") -> RunConfig:
    return configured(
        folder,
        name=name,
        adapter=HYBRID,
        stages=STAGES,
        train={"max_steps": None, "learning_rate": None, "precision": "fp32"},
        evaluate={"every_steps": 100},
        checkpoint={"every_steps": 1, "keep": 20},
    )


def weights(folder: Path, step: int) -> dict[str, torch.Tensor]:
    found = next((folder / "checkpoints").glob(f"step-*{step}"))
    return load_file(found / "trainable.safetensors")


def moved(folder: Path, first: int, last: int) -> set[str]:
    before, after = weights(folder, first), weights(folder, last)
    return {
        key
        for name in before
        for key in ("reader", "lora")
        if f".{key}." in name and not before[name].equal(after[name])
    }


def test_each_stage_trains_its_own_and_leaves_the_rest(tmp_path: Path) -> None:
    """Three updates of one entry, two of the other, four of both; the rates follow each stage's own schedule.

    The middle stage is constant at 0.02 without warm-up; the last has warm-up ceil(0.03 * 4) = 1, so that its rates are
    0.005 / 2, then a half cosine over three updates: 0.005, 0.00375, 0.00125.
    """
    result = start_run(staged(tmp_path))
    rows = [row for row in read_lines(result.folder / "metrics.jsonl") if row["kind"] == "train"]
    assert len(rows) == result.step == 9
    assert moved(result.folder, 1, 3) == {"reader"}
    assert moved(result.folder, 3, 5) == {"lora"}
    assert moved(result.folder, 5, 9) == {"reader", "lora"}
    found = [row["learning_rate"] for row in rows]
    assert found[3:5] == [0.02, 0.02]
    assert found[5:] == pytest.approx([0.0025, 0.005, 0.00375, 0.00125])
    assert result.tuned["loss"] < result.base["loss"]


@pytest.mark.parametrize("at", [2, 3, 4, 7])
def test_a_run_resumes_inside_any_stage(tmp_path: Path, at: int) -> None:
    """Stopped in the first stage, at its end, in the second and in the third: the same weights to the bit."""
    whole = start_run(staged(tmp_path, "whole"))

    def stop(event: Event) -> Action | None:
        return Stop("interrupted") if isinstance(event, Stepped) and event.step == at else None

    stopped = start_run(staged(tmp_path, "parted"), callbacks=[stop])
    assert stopped.step == at
    resumed = resume_run(stopped.folder)
    assert resumed.step == 9
    ours, theirs = weights(resumed.folder, 9), weights(whole.folder, 9)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def planned(*stages: dict[str, Any], **base: Any) -> tuple[Stage, ...]:
    return plan_stages([StageConfig(**s) for s in stages], OptimConfig(**base), TRAINED, 30, 10).stages


def test_each_entry_learns_at_its_own_rate_where_none_is_given() -> None:
    """The peak is the lowest default, 1e-3; `lora` learns 4 times as fast, its B 4 * 16 times."""
    (stage,) = planned()
    assert stage.peak[0] == 1e-3
    assert stage.scales == {"b.lora.A": 4.0, "b.lora.B": 64.0}
    (given,) = planned(learning_rate=1e-2)
    assert given.peak[0] == 1e-2 and given.scales == {"b.lora.B": 16.0}


def test_lengths_in_epochs_and_steps() -> None:
    """10 updates an epoch: half an epoch is 5 updates, then 7."""
    first, second = planned({"train": "reader", "num_epochs": 0.5}, {"train": "re:lora", "steps": 7})
    assert (first.begin, first.end, second.begin, second.end) == (0, 5, 5, 12)
    assert first.peak[0] == 1e-3 and second.peak[0] == 4e-3
    assert second.names == {"b.lora.A", "b.lora.B"}


def test_stages_that_cannot_be() -> None:
    with pytest.raises(UserError, match="`train: readr` of stage `readr` matches nothing") as caught:
        planned({"train": "readr", "steps": 1})
    assert "reader" in caught.value.fix
    with pytest.raises(UserError, match="2 parameters of the recipe's adapters are trained in no stage"):
        planned({"train": "reader", "steps": 1})
    with pytest.raises(ValueError, match="either `steps` or `num_epochs`"):
        StageConfig(train="all")
    with pytest.raises(ValueError, match="contradict"):
        StageConfig(train="all", steps=1, warmup_steps=1, warmup_ratio=0.1)


def test_a_recipe_with_a_list_of_methods(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "model: m\ndata: d.jsonl\nadapter:\n  - lora\n  - {method: full, targets: norm}\n"
        "stages:\n  - {train: lora, steps: 2}\n  - {steps: 3}\n"
    )
    config = load_run(path, ["adapter.0.rank=4", "stages.1.learning_rate=1e-3"])
    assert [a.method for a in config.adapters] == ["lora", "full"]
    assert config.adapters[0].rank == 4 and config.stages[1].learning_rate == 1e-3  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"unknown key `adapter\.0\.rnk`") as caught:
        load_run(path, ["adapter.0.rnk=4"])
    assert "rank" in caught.value.fix
    with pytest.raises(UserError, match=r"`adapter\.2` names no entry of a list"):
        load_run(path, ["adapter.2.rank=4"])
    with pytest.raises(UserError, match=r"leave `train\.num_epochs`"):
        load_run(path, ["train.num_epochs=3"])
    with pytest.raises(UserError, match="adapter"):
        load_run(path, ["adapter=[]"])
