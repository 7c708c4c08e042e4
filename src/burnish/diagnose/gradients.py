"""What norms and agreement of the gradients say: dead tensors, layers that hear nothing, clipping, batch size."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from burnish.core.findings import Finding
from burnish.diagnose.moves import noise_scale
from burnish.diagnose.series import Series

LOWEST, HIGHEST = 0.01, 10.0
"""The healthy range of a norm where nothing better is known."""
LEARNT = 50
"""Updates from which on a run's own norms take the place of this range."""
RECENTRED = 30.0
"""Then healthy is what lies within so many times their median."""
FEWEST = 4
"""Measurements without which nothing is said."""
FAINT = 1e-3
"""Share of the loudest layer's norm below which a layer hears nothing."""
QUIET = ("prefix.", "vera.", "adalora.", "ia3.")
"""Kinds of parameters whose gradients are small by construction, since they are few or stand beside small or fixed
factors: 0.002 to 0.006 in healthy runs of MiniLM. Of them the share of the loudest layer alone tells."""
CLIPPED = 0.95
"""Share of clipped updates above which the limit, and not the gradient, decides every step."""
SMALL_BATCH, LARGE_BATCH = 8.0, 0.1
"""A noise scale so many times the batch size makes larger batches pay; one below this share makes smaller ones do."""


def dead(series: Series) -> Iterator[Finding]:
    """Trained tensors whose gradient is exactly zero in every update but the first ones."""
    # the first gradient of LoRA's A is zero, because its B is
    found = [(step, count) for step, count in series.measured("dead") if step >= 3]
    if len(found) < FEWEST or not all(count for _, count in found[-FEWEST:]):
        return
    line = series.gradients[-1]
    names = line.get("dead_names") or []
    count = min(count for _, count in found[-FEWEST:])
    yield Finding(
        "warning", "gradients.dead", f"{count} of {line.get('tensors', '?')} trained tensors have no gradient at all",
        ", ".join(names) or "trained tensors", "Nothing of the loss reaches them: they stay as they were initialised.",
        "leave them out with `adapter.targets`, or see what cuts them off: both factors at zero, a `detach`",
        {"since": found[0][0], "tensors": count, "names": names},
    )  # fmt: skip


def healthy_range(series: Series, layer: str) -> tuple[float, float]:
    """Lowest and highest healthy norm of a layer: the default for 50 updates, then what lies around its own median."""
    own = [layers[layer] for step, layers in series.measured("layers") if step <= LEARNT and layers.get(layer)]
    if not len(series) or series.steps[-1] <= LEARNT or len(own) < FEWEST:
        return LOWEST, HIGHEST
    middle = float(np.median(own))
    return min(LOWEST, middle / RECENTRED), max(HIGHEST, middle * RECENTRED)


def layer_norms(series: Series) -> Iterator[Finding]:
    """Layers whose gradients vanish or explode."""
    measured: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for step, layers in series.measured("layers"):
        for layer, norm in layers.items():
            measured[layer].append((step, norm))
    if not measured or max(len(found) for found in measured.values()) < FEWEST:
        return
    # the first updates, before rates fall and losses rest: a loss that is learnt leaves small gradients, and may
    early = {layer: _early(found) for layer, found in measured.items()}
    loudest = max(early.values())
    lowest = max(0.0 if _quiet(series) else LOWEST, FAINT * loudest)
    faint = sorted(
        (layer for layer, norm in early.items() if layer != "outside" and 0 < norm < lowest),
        key=lambda layer: early[layer],
    )
    loud = [layer for layer, found in measured.items() if early[layer] > HIGHEST or _grows(series, layer, found)]
    if faint:
        yield Finding(
            "warning", "gradients.vanishing", f"gradients vanish in {len(faint)} of {len(early)} parts: "
            f"{early[faint[0]]:.1g} in {_named(faint[0])}, {loudest:.2g} in the loudest",
            ", ".join(_named(layer) for layer in faint[:8]), "Between these layers and the loss nearly everything is "
            "lost; AdamW makes full steps of what is left, which is mostly rounding.",
            "look at initial values on the way: a norm or a factor near zero, a saturated tanh, a wrong scale",
            {"since": measured[faint[0]][0][0], "norms": {name: early[name] for name in faint[:8]}, "loudest": loudest},
        )  # fmt: skip
    if loud:
        worst = max(loud, key=lambda layer: max(norm for _, norm in measured[layer]))
        yield Finding(
            "warning", "gradients.exploding", f"gradients explode in {len(loud)} of {len(early)} parts: "
            f"{max(norm for _, norm in measured[worst]):.3g} in {_named(worst)}",
            ", ".join(_named(layer) for layer in loud[:8]), f"Healthy norms lie between {LOWEST:g} and {HIGHEST:g}.",
            "lower the learning rate, look at initial values that are too large, and keep `train.max_grad_norm`",
            {"since": measured[worst][0][0], "norms": {layer: early[layer] for layer in loud[:8]}},
        )  # fmt: skip


def _quiet(series: Series) -> bool:
    """Whether nothing but parameters of quiet kinds is trained, beside a new head."""
    kinds = {name for _, groups in series.measured("groups") for name in groups if name.partition(".")[0] != "head"}
    return bool(kinds) and all(name.startswith(QUIET) for name in kinds)


def _early(found: list[tuple[int, float]]) -> float:
    """The median norm of updates 2 to 10: the first gradient of some adapters is zero by construction."""
    own = [norm for step, norm in found if 2 <= step <= 10] or [norm for _, norm in found]
    return float(np.median(own))


def _grows(series: Series, layer: str, found: list[tuple[int, float]]) -> bool:
    """Whether the recent norms left the healthy range upwards."""
    recent = [norm for _, norm in found[-FEWEST:]]
    return float(np.median(recent)) > healthy_range(series, layer)[1]


def _named(layer: str) -> str:
    return layer if layer == "outside" or " " in layer else f"layer {layer}"


def clipping(series: Series) -> Iterator[Finding]:
    """Nearly every update is clipped."""
    limit = series.facts.max_grad_norm
    norms = series.grad_norm[np.isfinite(series.grad_norm)]
    if limit is None or len(norms) < 20:
        return
    share, middle = float((norms > limit).mean()), float(np.median(norms))
    if share > CLIPPED:
        yield Finding(
            "note", "gradients.clipped", f"{share:.0%} of the updates are clipped to {limit:g}; the median norm is "
            f"{middle:.3g}", "train.max_grad_norm", "The limit acts as a second learning rate; AdamW divides it out "
            "again as long as it is the same for every update.",
            f"raise `train.max_grad_norm` to about {2 * middle:.1g} so that it only holds what stands out",
            {"since": 1, "share": share, "median": middle},
        )  # fmt: skip


def batch_hint(series: Series) -> Iterator[Finding]:
    """What the gradient noise scale says of the batch size."""
    scale, size = noise_scale(series), series.facts.batch_size
    if scale is None or size is None:
        return
    shown = f"{scale:,.0f} rows" if math.isfinite(scale) and scale < 1e4 else "more than 10,000 rows"
    evidence = {"noise_scale": scale if math.isfinite(scale) else None, "batch_size": size}
    if scale > SMALL_BATCH * size:
        advice = "larger batches, with a rate raised by the root of the factor, lose little and use the hardware better"
    elif scale < LARGE_BATCH * size:
        advice = "smaller batches and more updates would learn as much from fewer rows"
    else:
        advice = "the batch size fits"
    yield Finding(
        "note", "gradients.noise-scale", f"signal and noise of the gradient are alike at {shown}; an update has {size}",
        "train.batch_size", "Below this batch size twice the rows allow nearly twice the step; far above it they are "
        "wasted (McCandlish et al., 2018).", advice, evidence,
    )  # fmt: skip
