"""Recipes: short forms, overrides, paths, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.adapters.lora import LoraConfig
from burnish.core.errors import UserError
from burnish.recipes import find_recipe
from burnish.train.config import RunConfig, load_run

SHORT = "model: ./model\ndata: {train: rows.jsonl}\nadapter: lora\n"


@pytest.fixture
def short(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").touch()
    path = tmp_path / "my-run.yaml"
    path.write_text(SHORT)
    return path


def test_short_forms_take_overrides(short: Path) -> None:
    config = load_run(
        short, ["adapter.rank=8", "model.revision=main", "data.train.limit=5", "train.learning_rate=1e-4"]
    )
    assert isinstance(config.adapter, LoraConfig)
    assert config.adapter.rank == 8 and config.model.revision == "main" and config.train.learning_rate == 1e-4
    assert config.name == "my-run" and config.folder == Path("runs/my-run")


def test_paths_are_taken_from_the_recipe(short: Path) -> None:
    """A name beside the recipe is that file; a hub name that is not beside it stays as it is."""
    config = load_run(short)
    assert config.data.model_dump()["train"]["path"] == str(short.parent / "rows.jsonl")
    assert load_run(short, ["model=org/name"]).model.path == "org/name"


@pytest.mark.parametrize(
    ("override", "what", "fix"),
    [
        ("train.learning_rat=1", "unknown key `train.learning_rat`", "learning_rate"),
        ("adapter=lorra", "lorra", "lora"),
        ("adapter.rank=big", "valid integer", "Width|Rank"),
        ("adapter={method: bottleneck, rank: 8}", "unknown key `adapter.rank`", "this one has `method`"),
        ("train.batch_size=0", "greater than or equal to 1", "Rows per update"),
        ("early_stopping.metric=accuracy", "evaluate.choices", ""),
        ("trackers=[tensorbord]", "tensorboard", ""),
        ("model.path.x=1", "not a section", "mapping"),
        ("nonsense", "not an override", "train.learning_rate"),
        ("name=../elsewhere", "pattern", "Name of the run"),
    ],
)
def test_faults_are_named(short: Path, override: str, what: str, fix: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        load_run(short, [override])
    assert not fix or any(word in caught.value.fix + caught.value.what for word in fix.split("|"))


def test_data_may_be_one_path(short: Path) -> None:
    short.write_text(SHORT.replace("{train: rows.jsonl}", "rows.jsonl"))
    train = load_run(short, ["data.train.limit=3"]).data.train
    assert train.path == str(short.parent / "rows.jsonl") and train.limit == 3  # type: ignore[union-attr]


@pytest.mark.parametrize("section", ["model", "data", "adapter"])
def test_a_missing_section_is_shown_with_an_example(short: Path, section: str) -> None:
    lines = [line for line in SHORT.splitlines() if not line.startswith(section)]
    short.write_text("\n".join(lines))
    with pytest.raises(UserError, match=f"no `{section}` section") as caught:
        load_run(short)
    assert section in caught.value.fix


def test_a_resolved_recipe_is_a_recipe(short: Path) -> None:
    config = load_run(short)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_the_embedded_recipe_is_valid() -> None:
    config = load_run(find_recipe("quickstart"))
    assert config.name == "quickstart" and config.evaluate.choices == ("negative", "neutral", "positive")


def test_a_file_of_settings_is_laid_over_a_recipe(short: Path) -> None:
    """Section by section: the rate beside what there was, the adapter in the place of another; later overrides win."""
    over = short.parent / "over.yaml"
    over.write_text("adapter: {method: bottleneck, width: 8}\ntrain: {learning_rate: 3e-4}\n")
    config = load_run(short, ["train.batch_size=4", f"@{over}", "adapter.width=9"])
    assert config.adapters[0].method == "bottleneck" and config.adapters[0].width == 9  # type: ignore[attr-defined]
    assert config.train.learning_rate == 3e-4 and config.train.batch_size == 4
    assert load_run(short, [f"@{over}", "train.learning_rate=1e-3"]).train.learning_rate == 1e-3
    with pytest.raises(UserError, match="the file of settings does not exist") as caught:
        load_run(short, [f"@{short.parent / 'ovre.yaml'}"])
    assert "over.yaml" in caught.value.fix
