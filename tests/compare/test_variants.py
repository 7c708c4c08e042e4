"""What `--methods` understands, and the recipes that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from burnish.compare.trials import Wanted, prepare
from burnish.compare.variants import read_variants, recipe_of
from burnish.core.errors import UserError
from tests.support.recipes import configured


def test_settings_belong_to_method_recipe_or_training() -> None:
    first, second = read_variants("lora+rank=8+targets=[q_proj,v_proj]+train.batch_size=4,full+learning_rate=5e-5")
    assert first.methods == (("lora", {"rank": 8, "targets": ["q_proj", "v_proj"]}),)
    assert first.overrides == ("train.batch_size=4",) and first.learning_rate is None
    assert second.methods == (("full", {}),) and second.learning_rate == 5e-5
    assert read_variants("lora&full")[0].methods == (("lora", {}), ("full", {}))
    assert {"lora", "full"} <= {v.label for v in read_variants(None)}


@pytest.mark.parametrize("text", ["lroa", "lora,lora", "lora+rank", "lora+learning_rate=fast", "lora,,full", "lora+=3"])
def test_what_is_malformed_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_variants(text)
    assert caught.value.fix


def test_the_recipes_own_method_keeps_its_settings_and_its_learning_rate(tmp_path: Path) -> None:
    """The recipe says LoRA of rank 4 at 0.01: LoRA keeps both, full tuning gets its own default learning rate."""
    config = configured(tmp_path)
    lora, full, own = (recipe_of(config, v) for v in read_variants("lora+dropout=0.1,full,full+learning_rate=0.5"))
    assert lora["adapter"] == {"method": "lora", "rank": 4, "dropout": 0.1} and lora["train"]["learning_rate"] == 0.01
    assert full["adapter"] == {"method": "full"} and "learning_rate" not in full["train"]
    assert own["train"]["learning_rate"] == 0.5


def test_seeds_share_the_held_out_rows(tmp_path: Path) -> None:
    """The seed of the split is the recipe's for all; everything else random follows the run's seed."""
    config = configured(tmp_path, seed=7)
    (one,) = prepare(Wanted(config, read_variants("lora"), 3, tmp_path / "out"))
    assert [t.recipe["seed"] for t in one.trials] == [7, 8, 9]
    assert {t.recipe["data"]["split"]["seed"] for t in one.trials} == {7}
    assert len({t.key for t in one.trials}) == 3 and len({t.folder for t in one.trials}) == 3


def test_the_key_of_a_run_holds_every_setting_by_default_or_given(tmp_path: Path) -> None:
    """`distill` compares at general texts by default: said or not said, it is the same recipe, and another one is not.

    So a run that was made while the default was another one does not count for a recipe that leaves it out.
    """

    def key(entry: object) -> str:
        config = configured(tmp_path, regularizers=[entry])
        return prepare(Wanted(config, read_variants("lora"), 1, tmp_path / "out"))[0].trials[0].key

    assert key("distill") == key({"kind": "distill", "on": "general"}) != key({"kind": "distill", "on": "task"})


def test_a_budget_sizes_each_method_and_says_how(tmp_path: Path) -> None:
    """1,088 parameters a rank: 4,352 are rank 4; 5,000 are met within 9 % only; full tuning can't be sized."""
    config = configured(tmp_path)
    exact, full = prepare(Wanted(config, read_variants("lora+rank=1,full"), 1, tmp_path / "out", budget=4_352))
    assert exact.trials[0].recipe["adapter"]["rank"] == 4 and exact.sized == "rank 4"
    assert full.sized == "no size of its own"


def test_a_variant_that_is_no_recipe_says_why_and_stops_nobody(tmp_path: Path) -> None:
    found = prepare(Wanted(configured(tmp_path), read_variants("lora+rnk=3,lora"), 1, tmp_path / "out"))
    assert "rnk" in found[0].refused and not found[0].trials and found[1].trials
