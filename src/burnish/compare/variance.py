"""How much each setting matters: the variance of a quality over a full grid of settings, taken apart.

With y over all combinations, each as likely, and m the mean of y, the functional decomposition (Hoeffding, 1948;
Hutter, Hoos and Leyton-Brown, 2014, for forests) gives the setting j

    f_j(level) = mean of y over all combinations with this level, minus m
    share_j    = mean of f_j^2 / mean of (y - m)^2

and what the sum of these leaves is due to settings together, and to chance. Over a full grid it is exact: no forest is
fitted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

Levels = tuple[float, ...]


def variance_shares(values: Mapping[Levels, float], names: Sequence[str]) -> dict[str, float]:
    """Each setting's share, and ``together`` for the rest; empty where nothing varies.

    Combinations may be missing, of trials that failed: then levels are left out, those with most holes first, until
    the grid is full.

    Args:
        values: Quality by the levels of all settings.
        names: The settings, in the order of the levels.
    """
    grid = full_grid(values)
    levels = [sorted({one[j] for one in grid}) for j in range(len(names))]
    if len(grid) < 2:
        return {}
    cube = np.empty([len(own) for own in levels])
    for combination, value in grid.items():
        cube[tuple(own.index(level) for own, level in zip(levels, combination, strict=True))] = value
    centred = cube - cube.mean()
    whole = float((centred**2).mean())
    if whole <= 0:
        return {}
    shares = {}
    for j, name in enumerate(names):
        if len(levels[j]) > 1:
            others = tuple(axis for axis in range(len(names)) if axis != j)
            shares[name] = float((centred.mean(axis=others) ** 2).mean()) / whole
    return {**shares, "together": max(0.0, 1 - sum(shares.values()))} if len(shares) > 1 else shares


def full_grid(values: Mapping[Levels, float]) -> dict[Levels, float]:
    """The combinations of the largest levels that have no hole, found by leaving out the level with most of them."""
    left = {one: value for one, value in values.items() if np.isfinite(value)}
    while left:
        levels = [{one[j] for one in left} for j in range(len(next(iter(left))))]
        if len(left) == int(np.prod([len(own) for own in levels])):
            return left
        filled = {(j, level): np.mean([one[j] == level for one in left]) * len(own)
                  for j, own in enumerate(levels) for level in own if len(own) > 1}  # fmt: skip
        j, worst = min(filled, key=lambda place: filled[place])
        left = {one: value for one, value in left.items() if one[j] != worst}
    return {}
