"""Learning-rate schedules: by hand, and against `transformers`."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)
from transformers.optimization import get_cosine_schedule_with_warmup

from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.optim.config import OptimConfig
from burnish.optim.schedule import learning_rate_at, learning_rate_factor, warmup_length


def factors(total: int, **options: Any) -> list[float]:
    config = OptimConfig(**options)
    return [learning_rate_factor(step, total, config) for step in range(total)]


def test_linear_by_hand() -> None:
    """w = 3 of T = 8: 1/4, 2/4, 3/4, then 1 - (i - 3) / 5. No update has rate 0."""
    wanted = [0.25, 0.5, 0.75, 1.0, 0.8, 0.6, 0.4, 0.2]
    assert factors(8, schedule="linear", warmup_steps=3) == pytest.approx(wanted)


def test_cosine_by_hand() -> None:
    """w = 0, T = 4: (1 + cos(pi i / 4)) / 2 is 1, (2 + sqrt 2) / 4, 1/2, (2 - sqrt 2) / 4; floor m: m + (1 - m) f."""
    wanted = [1.0, (2 + math.sqrt(2)) / 4, 0.5, (2 - math.sqrt(2)) / 4]
    assert factors(4, warmup_steps=0) == pytest.approx(wanted)
    floored = [0.2 + 0.8 * f for f in wanted]
    assert factors(4, warmup_steps=0, min_learning_rate_ratio=0.2) == pytest.approx(floored)


def test_constant_by_hand() -> None:
    assert factors(4, schedule="constant", warmup_steps=1) == [0.5, 1.0, 1.0, 1.0]


ORACLES: dict[str, Any] = {
    "cosine": get_cosine_schedule_with_warmup,
    "linear": get_linear_schedule_with_warmup,
    "constant": lambda optimizer, warmup, total: get_constant_schedule_with_warmup(optimizer, warmup),
}


def rates_of(scheduler_of: Any, count: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = scheduler_of(optimizer)
    rates = []
    for _ in range(count):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize("name", list(ORACLES))
@pytest.mark.parametrize(("warmup", "total"), [(0, 1), (0, 7), (3, 10), (9, 10), (30, 1000)])
def test_equals_transformers_one_update_later(name: str, warmup: int, total: int) -> None:
    """Ours at update i of (w, T) is theirs at i + 1 of (w + 1, T + 1): theirs at 0 would be a rate of 0."""
    theirs = rates_of(lambda o: ORACLES[name](o, warmup + 1, total + 1), total + 1)
    assert theirs[0] == 0.0
    assert factors(total, schedule=name, warmup_steps=warmup) == pytest.approx(theirs[1:], abs=1e-12)


def test_floor_equals_transformers() -> None:
    theirs = rates_of(lambda o: get_cosine_with_min_lr_schedule_with_warmup(o, 4, 21, min_lr_rate=0.1), 21)
    assert factors(20, warmup_steps=3, min_learning_rate_ratio=0.1) == pytest.approx(theirs[1:], abs=1e-12)


@given(
    total=st.integers(1, 400),
    ratio=st.floats(0, 0.99),
    floor=st.floats(0, 1),
    name=st.sampled_from(["cosine", "linear", "constant"]),
)
@settings(max_examples=60, deadline=None)
def test_rises_then_falls_and_no_update_is_wasted(total: int, ratio: float, floor: float, name: str) -> None:
    config = OptimConfig(schedule=name, warmup_ratio=ratio, min_learning_rate_ratio=floor)  # type: ignore[arg-type]
    curve = [learning_rate_factor(i, total, config) for i in range(total)]
    warmup = warmup_length(total, config)
    assert warmup < total
    assert all(0 < f <= 1 for f in curve)
    assert curve[warmup] == pytest.approx(1.0)
    assert curve[: warmup + 1] == sorted(curve[: warmup + 1])
    assert curve[warmup:] == sorted(curve[warmup:], reverse=True)
    assert min(curve[warmup:]) >= floor - 1e-12


@pytest.mark.parametrize(
    ("options", "total", "wanted"),
    [
        ({}, 100, 3),  # 0.03
        ({"warmup_ratio": 0.07}, 100, 7),  # 0.07 * 100 is 7.000000000000001
        ({"warmup_ratio": 0.1}, 25, 3),  # ceil(2.5)
        ({"warmup_ratio": 0.0}, 25, 0),
        ({"warmup_steps": 5}, 25, 5),
        ({}, 1, 0),
    ],
)
def test_length_of_the_warmup(options: dict[str, Any], total: int, wanted: int) -> None:
    assert warmup_length(total, OptimConfig(**options)) == wanted


def test_warmup_longer_than_the_run() -> None:
    with pytest.raises(UserError, match="a warm-up of 10 updates does not end before the run of 10"):
        learning_rate_factor(0, 10, OptimConfig(warmup_steps=10))


def test_peak() -> None:
    config = OptimConfig(warmup_steps=0, schedule="linear")
    assert learning_rate_at(5, 10, config, 2e-4) == pytest.approx(1e-4)
    assert learning_rate_at(5, 10, OptimConfig(warmup_steps=0, schedule="linear", learning_rate=1.0), 2e-4) == 0.5
    with pytest.raises(ValueError, match="no learning rate"):
        learning_rate_at(5, 10, config)


@pytest.mark.parametrize(
    "wrong",
    [
        {"warmup_ratio": 0.1, "warmup_steps": 3},
        {"betas": (0.9, 1.0)},
        {"learning_rate": 0},
        {"learning_rate": float("inf")},
        {"schedule": "cosin"},
        {"warmup_ratio": 1.0},
        {"max_grad_norm": 0},
    ],
)
def test_configuration_is_strict(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError):
        build(OptimConfig, wrong)


def test_configuration_round_trips() -> None:
    """The resolved recipe names every field, null where nothing was given; reading it again is no contradiction."""
    for config in (OptimConfig(), OptimConfig(warmup_steps=4), OptimConfig(warmup_ratio=0.2, max_grad_norm=None)):
        assert build(OptimConfig, config.model_dump(mode="json")) == config
    assert all(field.description for field in OptimConfig.model_fields.values())
