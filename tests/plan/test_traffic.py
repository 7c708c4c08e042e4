"""What devices send in an update, against sums by hand."""

from __future__ import annotations

import pytest

from burnish.plan.engines import Engine
from burnish.plan.footprint import Footprint
from burnish.plan.traffic import sent

FULL = Footprint(4000, 0, 4000, 8000, 0, 0, 0, trained=1000, trained_base=4000)
"""A thousand numbers in fp32, all trained."""
ADAPTED = Footprint(2000, 40, 40, 80, 0, 0, 0, trained=10)
"""A thousand frozen numbers in bf16 beside ten that are trained."""


@pytest.mark.parametrize(
    ("engine", "full", "adapted"),
    [
        ("ddp", 6000, 60),  # 3/4 of 2 x 4000; of 2 x 40
        ("zero1", 6000, 60),  # 3/4 of 4000 + 4000; of 40 + 40
        ("zero2", 9000, 90),  # 3/4 of 2 x 4000 + 4000; of 2 x 40 + 40
        ("zero3", 18000, 6180),  # 3/4 of 2 (2 x 4000 + 4000); of 2 (2 x 2040 + 40)
        ("fsdp2", 18000, 6180),
    ],
)
def test_four_devices_with_two_micro_batches(engine: str, full: int, adapted: int) -> None:
    """Each sends three quarters of what the module's table says."""
    assert sent(FULL, Engine(engine, 4), 2) == full  # type: ignore[arg-type]
    assert sent(ADAPTED, Engine(engine, 4), 2) == adapted  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("half", "full", "adapted"),
    [
        (["gradients"], 15000, 6150),  # 3/4 of 2 (2 x 4000 + 2000); of 2 (2 x 2040 + 20)
        (["weights"], 12000, 6120),  # 3/4 of 2 (2 x 2000 + 4000); of 2 (2 x (2000 + 20) + 40)
        (["gradients", "weights"], 9000, 6090),
    ],
)
def test_what_travels_in_bf16_takes_half(half: list[str], full: int, adapted: int) -> None:
    """Weights that are frozen are in their own format already."""
    assert sent(FULL, Engine("fsdp2", 4, half=frozenset(half)), 2) == full
    assert sent(ADAPTED, Engine("fsdp2", 4, half=frozenset(half)), 2) == adapted


def test_one_device_tells_nobody() -> None:
    assert sent(FULL, Engine()) == 0 and sent(FULL, Engine("ddp", 1)) == 0
