"""Ticks as text."""

from __future__ import annotations

import pytest

from burnish.core.ticks import tick_labels, ticks


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0.1, 0.35, ["0.10", "0.15", "0.20", "0.25", "0.30", "0.35"]),  # 0.05 apart; 6 * 0.05 is 0.30000000000000004
        (5.6, 6.0, ["5.6", "5.7", "5.8", "5.9", "6.0"]),
        (-0.2, 0.2, ["-0.2", "-0.1", "0.0", "0.1", "0.2"]),
        (0, 4000, ["0", "1,000", "2,000", "3,000", "4,000"]),
        (0, 4e-9, ["0", "1e-09", "2e-09", "3e-09", "4e-09"]),
    ],
)
def test_all_have_the_decimals_of_their_distance(low: float, high: float, labels: list[str]) -> None:
    assert tick_labels(ticks(low, high)) == labels
