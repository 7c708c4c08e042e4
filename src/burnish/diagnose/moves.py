"""How far the weights move and how much successive gradients agree, from what a run measured of its updates."""

from __future__ import annotations

import math

import numpy as np

from burnish.diagnose.series import Series

SKIPPED = 3
"""Measurements at the beginning that are left out: AdamW's first updates are all of the same size."""
RECENT = 12
"""Measurements that an agreement is taken over."""
FROM_ZERO = ("embedding", "bias", "norm", "head", "lora.B", "bottleneck.up", "prompt", "prefix", "adalora", "vera")
"""Kinds of parameters that begin at or near zero, or of which a batch reaches few rows: their ratio says nothing.

AdaLoRA's factors begin at 0.02 and VeRA's scales at 0.1 and 0; each method's own rate is a tenth of that and more."""


def weight_ratio(series: Series) -> tuple[int, float] | None:
    """Step and size of the largest lasting update, by the norm of the weights: the highest median of five in a row.

    Only kinds of parameters that do not begin at zero count. None where nothing was measured.
    """
    found = []
    for step, groups in series.measured("groups_ratio"):
        kept = [ratio for name, ratio in groups.items() if not any(word in name for word in FROM_ZERO)]
        if kept:
            found.append((step, max(kept)))
    if len(found) < 5:
        return None
    values = np.array([value for _, value in found])
    medians = [float(np.median(values[i : i + 5])) for i in range(len(values) - 4)]
    best = int(np.argmax(medians))
    return found[best][0], medians[best]


def movement(series: Series) -> float | None:
    """Median ratio of an update to its weights, all parameters together."""
    found = [value for _, value in series.measured("ratio")]
    return float(np.median(found)) if found else None


def agreement(series: Series) -> float | None:
    """Share of a gradient's square that is signal: the mean of ``g . m / max(g . g, m . m)`` over recent measurements.

    g is a gradient and m the mean of those before it, so that ``E[g . m] = |G|^2`` and ``E[g . g] = |G|^2 + tr(S)/B``
    (McCandlish et al., 2018, section 2.2): 1 without noise, 0 where there is nothing but noise. The larger square is
    taken because gradients that shrink would agree with larger ones before them by more than 1. None where fewer than
    five were measured.
    """
    found = [value for _, value in series.measured("agreement")][SKIPPED:][-RECENT:]
    if len(found) < 5:
        return None
    # each measurement counts alike, whatever the size of its gradient
    shares = [one["product"] / max(one["square"], one["before"]) for one in found if one["square"] > 0]
    return float(np.clip(np.mean(shares), 0.0, 1.0)) if shares else None


def noise_scale(series: Series) -> float | None:
    """``B_simple = tr(S) / |G|^2`` in rows: the batch size at which noise and signal of a gradient are alike.

    From the norms of the first micro-batch and of the whole update where there are several (McCandlish et al., 2018,
    appendix A.1), else from the agreement a of successive gradients: ``B (1 - a) / a``.
    """
    size = series.facts.batch_size
    if size is None:
        return None
    found = [(line["first"], line["norm"]) for line in series.gradients if line.get("first") and line.get("norm")]
    if len(found) >= 5:
        signal = noise = 0.0
        for first, norm in found[-RECENT:]:
            part = first["share"] * size
            signal += (size * norm**2 - part * first["square"]) / (size - part)
            noise += (first["square"] - norm**2) / (1 / part - 1 / size)
        return max(noise, 0.0) / signal if signal > 0 else math.inf
    share = agreement(series)
    if share is None:
        return None
    return size * (1 - share) / share if share > 0 else math.inf
