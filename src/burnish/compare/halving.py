"""Successive halving: many trials for a short while, the better ones longer, few to their end.

Jamieson and Talwalkar (2016, arXiv:1502.07943), with a first stretch that does not follow from the number of trials:
with n trials, f finalists and one in eta kept, there are k = ceil(log_eta(n / f)) stops, at the shares

    s_i = s_0 ^ (1 - i / k),   i = 0 .. k - 1

of a training, behind each of which the best max(f, ceil(n / eta^(i + 1))) go on, and the finalists end at 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Stop:
    """A place at which trials are compared.

    Attributes:
        share: Of a training that is done there.
        kept: How many go on.
    """

    share: float
    kept: int


def stops(trials: int, finalists: int, eta: float, first: float) -> list[Stop]:
    """The stops before the end; none where all trials are finalists.

    Args:
        trials: How many there are.
        finalists: How many come to their end.
        eta: One in so many goes on.
        first: Share of a training at the first stop.
    """
    if trials <= finalists:
        return []
    count = max(1, math.ceil(math.log(trials / finalists) / math.log(eta) - 1e-9))
    kept = [max(finalists, math.ceil(trials / eta ** (i + 1) - 1e-9)) for i in range(count)]
    return [Stop(first ** (1 - i / count), kept[i] if i < count - 1 else finalists) for i in range(count)]


def survivors(values: Mapping[str, float], kept: int, higher: bool) -> list[str]:
    """The best so many, the best first; of equals those that were named first. What is no number comes last.

    Args:
        values: By name.
        kept: How many.
        higher: Whether more is better.
    """
    sign = -1.0 if higher else 1.0
    return sorted(values, key=lambda name: (math.isnan(values[name]), sign * values[name]))[:kept]


def cost(trials: int, finalists: int, eta: float, first: float, seeds: int = 1) -> float:
    """What a race takes, in whole trainings: every trial to its last stop, further seeds for the finalists."""
    total, alive, before = 0.0, trials, 0.0
    for stop in stops(trials, finalists, eta, first):
        total += alive * (stop.share - before)
        alive, before = stop.kept, stop.share
    return total + alive * (1 - before) + min(trials, finalists) * (seeds - 1)
