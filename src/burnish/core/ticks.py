"""Round numbers for the axes of drawings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise


def widen(low: float, high: float) -> tuple[float, float]:
    """A range that is no single point, and no wider than a number can say."""
    least = 1e-300  # below it the steps between ticks are no numbers any more
    gap = abs(high) * 0.05 if abs(high) > least else 1.0
    return (low, high) if high - low > max(abs(high) * 1e-9, least) else (low - gap, high + gap)


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart, from at or below ``low`` to at or above ``high``."""
    low, high = widen(low, high)
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if rough <= power * m * (1 + 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [k * step for k in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Ticks that are equally far apart as text, all with as many decimals as their distance needs."""
    step = min((b - a for a, b in pairwise(values)), default=1.0)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    if decimals > 6 or max(map(abs, values), default=0.0) >= 1e7:
        return [f"{value:.4g}" for value in values]
    return [f"{value if round(value, decimals) else 0.0:,.{decimals}f}" for value in values]


def log_ticks(low: float, high: float, most: int = 8) -> tuple[tuple[float, float], list[float]]:
    """A logarithmic axis: its ends, 1, 2 or 5 times a power of ten around both values, and its ticks.

    The ticks are all such numbers between the ends; where those are too many, powers of ten, or every second of them.
    """
    first, last = math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1
    fine = [m * 10.0**k for k in range(first, last + 1) for m in (1, 2, 5)]
    below = max(i for i, value in enumerate(fine) if value <= low * (1 + 1e-9))
    above = min(i for i, value in enumerate(fine) if value >= high * (1 - 1e-9))
    inside = fine[below : above + 1]
    ends = (inside[0], inside[-1])
    if len(inside) > most:
        powers = [fine[i] for i in range(below, above + 1) if i % 3 == 0]
        inside = powers[:: math.ceil(len(powers) / most)]
    return ends, inside
