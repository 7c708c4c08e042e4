"""A budget of parameters, divided: counted from what the methods build, met within 2 %, refused where it cannot be."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from burnish.adapters.attach import attach
from burnish.adapters.base import METHODS, Parts
from burnish.adapters.full import FullConfig
from burnish.adapters.lora import LoraConfig
from burnish.adapters.vera import VeraConfig
from burnish.core.errors import UserError
from burnish.models.config import ModelConfig
from burnish.models.load import load
from burnish.models.shapes import shapes_of
from burnish.plan.budget import TOLERANCE, divide, fitted, reachable, read_budget, read_shares
from burnish.plan.sizes import Size, parameters_of, size_of
from tests.plan.methods import LengthConfig, RankConfig, WidthConfig, registered
from tests.support.recipes import save_tiny
from tests.support.tiny import MODELS

PER_RANK = 2 * (4 * (32 + 32) + 3 * (32 + 64))
"""Parameters of one rank on the tiny Llama: two layers of four 32 x 32 and three 32 x 64 matrices."""


@pytest.fixture(autouse=True)
def methods() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture
def model() -> PreTrainedModel:
    with torch.device("meta"):
        return MODELS["llama"](0.0)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "t5"])
def test_shapes_are_those_of_the_loaded_model(tmp_path: Path, name: str) -> None:
    """Names and shapes of all parameters are those of the model that `load` reads, and none has a number."""
    config = ModelConfig(path=str(save_tiny(tmp_path, name)))
    headless = name == "bert"
    shapes = shapes_of(config, headless=headless)
    loaded = load(config, torch.float32, headless=headless, verify=False).model
    skipped = {n for n, _ in shapes.named_parameters() if n.startswith("pooler.")}
    found = {n: p.shape for n, p in shapes.named_parameters() if n not in skipped}
    assert found == {n: p.shape for n, p in loaded.named_parameters() if n not in skipped}
    assert all(p.is_meta for p in shapes.parameters())


def test_a_method_is_counted_by_what_it_builds(tmp_path: Path, model: PreTrainedModel) -> None:
    """LoRA of rank 3 trains 3 * 1,088 numbers on the tiny Llama, on its shapes as when it is attached for real."""
    assert parameters_of(LoraConfig(rank=3), model) == 3 * PER_RANK == 3264
    real = load(ModelConfig(path=str(save_tiny(tmp_path))), torch.float32).model
    assert attach(real, LoraConfig(rank=3)).parameters_count == 3264
    assert parameters_of(FullConfig(), model) == sum(p.numel() for p in model.parameters())


def test_a_method_that_computes_with_the_weights_is_counted_too(
    model: PreTrainedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build that reads a number from a weight, which a meta tensor has not: it sees zeros, and the shapes stay."""
    entry = METHODS["lora"]

    def reading(model: PreTrainedModel, config: LoraConfig, seed: int) -> Parts:
        assert float(model.get_input_embeddings().weight.detach().norm()) == 0.0  # refused by a meta tensor
        return entry.build(model, config, seed)

    monkeypatch.setitem(METHODS._items, "lora", replace(entry, build=reading))
    assert parameters_of(LoraConfig(rank=3), model) == 3 * PER_RANK
    assert all(p.is_meta for p in model.parameters())


def test_the_setting_that_sizes_a_method_is_found(model: PreTrainedModel) -> None:
    """By building it: rank, width (not depth, which changes nothing), length up to its own limit; nothing for full.

    A width m costs 2 * (2 * 32 m + m + 32) = 130 m + 64 in two layers; a virtual token 32.
    """
    assert size_of(LoraConfig(), model, 10_000) == Size(LoraConfig(), "rank", 0, PER_RANK, 1, 10)
    width = size_of(WidthConfig(), model, 1000)
    assert width is not None and (width.setting, width.fixed, width.each, width.most) == ("width", 64, 130, 8)
    length = size_of(LengthConfig(), model, 10_000)
    assert length is not None and (length.each, length.most, length.capped) == (32, 20, True)
    assert size_of(FullConfig(), model, 10_000) is None
    shared = size_of(VeraConfig(), model, 1_000_000)  # frozen numbers grow with the rank
    assert shared is not None and (shared.setting, shared.most, shared.capped) == ("rank", 1024, True)


def test_three_methods_meet_any_budget_they_can_reach(model: PreTrainedModel) -> None:
    """A virtual token costs 32 numbers, 2 % of 1,600: every budget above the least sizes' 1,314 that the 20 tokens can
    round off is met, and every total is the one counted by building the plan."""
    shares = {"lora": 60.0, "test-width": 30.0, "test-length": 10.0}
    draw = random.Random(0)
    for budget in [draw.randint(4_000, 30_000) for _ in range(25)]:
        plan = divide(model, [LoraConfig(), WidthConfig(), LengthConfig()], shares, budget)
        assert plan.hit and abs(plan.total / budget - 1) <= TOLERANCE
        assert plan.total == sum(parameters_of(line.config, model) for line in plan.lines)
        assert [a["method"] for a in plan.adapter()] == list(shares)  # type: ignore[index]


def test_one_method_alone_gets_the_nearest_and_is_told_so(model: PreTrainedModel) -> None:
    """64 and 130 a width: 1,000 lies between width 7 (974, -2.6 %) and 8 (1,104, +10.4 %)."""
    plan = divide(model, [WidthConfig()], {"test-width": 1.0}, 1_000)
    assert plan.lines[0].value == 7 and plan.total == 974 and not plan.hit
    assert "one step of test-width `width` is 130" in plan.notes[0]
    assert plan.adapter() == {"method": "test-width", "width": 7}
    assert divide(model, [WidthConfig()], {"test-width": 1.0}, 974).hit


def test_ranks_of_some_sites_fill_what_one_rank_for_all_leaves(model: PreTrainedModel) -> None:
    """5,000 = 4 * 1,088 + 648: a layer's 544 go to the last layer, and of the 104 left a 32 x 64 matrix takes 96."""
    plan = divide(model, [RankConfig()], {"test-rank": 1.0}, 5_000)
    config = plan.lines[0].config
    assert isinstance(config, RankConfig)
    assert plan.total == 4 * PER_RANK + 544 + 96 == parameters_of(config, model) and plan.hit and plan.lines[0].partly
    assert config.rank == 4 and config.rank_pattern == {
        r"re:^model\.layers\.(1)\.": 5,
        "model.layers.0.mlp.gate_proj": 5,
    }
    assert plan.lines[0].size == "rank 4, 5 in part"
    assert not divide(model, [RankConfig()], {"test-rank": 1.0}, 5_440).lines[0].partly


def test_what_a_method_cannot_take_goes_to_the_others(model: PreTrainedModel) -> None:
    """20 tokens take 640 numbers; of 20,000 divided in halves the width gets 19,360: 148 or 149 of 130, and 64."""
    plan = divide(model, [WidthConfig(), LengthConfig()], {"test-width": 50.0, "test-length": 50.0}, 20_000)
    width, length = plan.lines
    assert length.value == 20 and length.limited and width.value in (148, 149) and plan.hit
    assert any("takes no more than length 20" in note for note in plan.notes)


def test_shares_are_capped_and_refilled_in_proportion() -> None:
    """Of 1,000 the first can take 100: of its 50 % the 40 % left go to 30 % and 20 % as 24 % and 16 %."""
    sizes = [
        Size(LoraConfig(), "rank", 0, 10, 1, 10, capped=True),
        Size(LoraConfig(), "rank", 0, 1, 1, 1000),
        Size(LoraConfig(), "rank", 0, 1, 1, 1000),
    ]
    assert reachable(sizes, [0.5, 0.3, 0.2], 1000) == pytest.approx([0.1, 0.54, 0.36])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2M", 2_000_000),
        ("500k", 500_000),
        ("2_000_000", 2_000_000),
        ("1%", 100_000),
        ("0.5 %", 50_000),
        ("1.5m", 1_500_000),
    ],
)
def test_a_budget_is_read(text: str, expected: int) -> None:
    assert read_budget(text, 10_000_000) == expected


@pytest.mark.parametrize("text", ["", "2X", "-1", "nan", "0", "11M", "101%", "1e6"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UserError) as caught:
        read_budget(text, 10_000_000)
    assert caught.value.fix


@pytest.mark.parametrize("text", ["60", "60,30", "60,30,0", "60,x,10", "60,30,10,5", "inf,1,1"])
def test_shares_that_do_not_fit_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        read_shares(text, ["a", "b", "c"])


def test_a_budget_below_the_smallest_sizes_is_refused(model: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="below the smallest sizes, which train 1,088"):
        divide(model, [LoraConfig()], {"lora": 1.0}, 500)


def test_a_method_without_a_size_is_refused_with_what_it_trains(model: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="nothing sizes `full`"):
        divide(model, [FullConfig()], {"full": 1.0}, 5_000)


def test_fitting_one_method_keeps_its_other_settings(model: PreTrainedModel) -> None:
    """Queries of two layers cost 128 a rank: 1,000 is nearest to rank 8; full tuning stays as it is."""
    config, parameters, size = fitted(LoraConfig(targets="q_proj", dropout=0.1), model, 1_000)
    assert config == LoraConfig(targets="q_proj", dropout=0.1, rank=8) and (parameters, size) == (1_024, "rank 8")
    assert fitted(FullConfig(), model, 1_000)[0] == FullConfig()


def test_a_target_that_matches_nothing_says_so(model: PreTrainedModel) -> None:
    """The reason of the method itself, not that nothing sizes it."""
    with pytest.raises(UserError, match="matches no module"):
        divide(model, [LoraConfig(targets="qproj")], {"lora": 1.0}, 5_000)
