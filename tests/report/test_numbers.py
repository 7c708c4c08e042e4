"""Numbers as text."""

from __future__ import annotations

import math
from typing import Any

import pytest

from burnish.report import numbers as n


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf, "3", True, [], {}, 10**400])
def test_what_is_no_number_is_a_dash(value: Any) -> None:
    """JSON null, not-a-number, text, truth values and integers beyond any float: each format gives a dash."""
    for form in (n.count, n.decimal, n.signed, n.general, n.share, n.short, n.size, n.duration, n.p_value):
        assert form(value) == n.DASH


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (n.count, 1234567, "1,234,567"),
        (n.decimal, -0.5, "−0.500"),
        (n.decimal, -0.0, "0.000"),
        (n.decimal, 2e-7, "2e−07"),
        (n.signed, 0.1, "+0.100"),
        (n.signed, -0.1, "−0.100"),
        (n.signed, 0.0, "0.000"),
        (n.general, 0.0004, "0.0004"),
        (n.share, 0.0363, f"3.6{n.THIN}%"),
        (n.share, 0.00004, f"0.004{n.THIN}%"),
        (n.share, 0, f"0.0{n.THIN}%"),
        (n.short, 134515008, f"134.5{n.THIN}M"),
        (n.short, 999, "999"),
        (n.size, 3433537536, f"3.2{n.THIN}GiB"),
        (n.size, 512, f"512{n.THIN}B"),
        (n.duration, 3.14, f"3.1{n.THIN}s"),
        (n.duration, 470.2, f"7{n.THIN}min 50{n.THIN}s"),
        (n.duration, 59.97, f"1{n.THIN}min 00{n.THIN}s"),
        (n.duration, 7325, f"2{n.THIN}h 02{n.THIN}min"),
        (n.p_value, 3e-17, f"<{n.NBSP}0.001"),
        (n.p_value, 0.0321, "0.032"),
        (n.rows, 1, "1 row"),
        (n.rows, 0, "0 rows"),
        (n.ranges, [0, 1, 2, 5, 7, 8], "0–2, 5, 7–8"),
    ],
)
def test_formats(form: Any, value: Any, text: str) -> None:
    """By hand: 3433537536 / 2^30 = 3.198; 470.2 s = 7 * 60 + 50.2; 7325 s = 2 * 3600 + 2 * 60 + 5."""
    assert form(value) == text
