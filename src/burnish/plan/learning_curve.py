"""Learning curves: how a quality grows with the number of training rows, and what more rows would bring.

K sizes, S seeds, D draws, C shapes tried. The families, each with its b on the side of growth:

    power        q(n) = a - b n^(-c)             (Hestness et al., 2017, arXiv:1712.00409; Viering and Loog, 2023)
    plain power  q(n) = e - b n^(-c)             with e the best value there is: 1, or 0 of a loss
    exponential  q(n) = a - b exp(-n / m)

For a given c (or m) all are linear, so that a and b follow from weighted least squares, and c from trying a fine grid.
The weights come from the spread between seeds, which is pooled over the sizes in part: with v_k that of one size and v
that of all, v_k' = (4 v + (S - 1) v_k) / (4 + S - 1), as Smyth (2004) does for genes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.evaluate.resample import ends

Floats = NDArray[np.float64]
POWER, PLAIN, EXPONENTIAL = "power", "plain power", "exponential"
FEWEST = 5
"""Sizes without which a curve of three numbers, held against a point of its own, says nothing."""
DRAWS = 600
SHAPES = 120
POOLED = 4.0
"""Seeds that the common spread counts for, beside those of one size."""
LEAST = 1e-3
"""A quality is not taken to be known better than this: the shapes are tried on a grid."""
_STANDARD = NormalDist()
FAR = 16.0
"""Times the largest size beyond which nothing is said."""


@dataclass(frozen=True)
class Family:
    """One kind of curve.

    Attributes:
        decay: From sizes [K] and shapes [C] to what b is multiplied with, [C, K].
        shapes: From the sizes to the shapes to try.
        offset: Whether a is fitted; else it is the best value there is.
        inverse: The size at which the decay of a shape has a value.
    """

    decay: Callable[[Floats, Floats], Floats]
    shapes: Callable[[Floats], Floats]
    offset: bool
    inverse: Callable[[Floats, Floats], Floats]


def _power(sizes_K: Floats, shapes_C: Floats) -> Floats:
    return np.asarray(sizes_K[None, :] ** -shapes_C[:, None])


def _falling(sizes_K: Floats, shapes_C: Floats) -> Floats:
    return np.asarray(np.exp(-sizes_K[None, :] / shapes_C[:, None]))


def _exponents(sizes: Floats) -> Floats:
    return np.geomspace(0.05, 2.0, SHAPES)


def _scales(sizes: Floats) -> Floats:
    return np.geomspace(sizes.min() / 4, sizes.max() * 8, SHAPES)


FAMILIES: Mapping[str, Family] = {
    POWER: Family(_power, _exponents, True, lambda value, c: value ** (-1 / c)),
    PLAIN: Family(_power, _exponents, False, lambda value, c: value ** (-1 / c)),
    EXPONENTIAL: Family(_falling, _scales, True, lambda value, m: -m * np.log(value)),
}


@dataclass(frozen=True)
class Curves:
    """Fitted curves, one for each draw of the values.

    Attributes:
        family: Name in ``FAMILIES``.
        a: [D] where they end.
        b: [D] how much is missing.
        shape: [D] how fast they come near.
        sign: 1 where more is better, else -1: the curves are of ``sign * q``.
    """

    family: str
    a: Floats
    b: Floats
    shape: Floats
    sign: float

    def at(self, size: float) -> Floats:
        """[D] the quality at a size."""
        decay = FAMILIES[self.family].decay(np.array([float(size)]), self.shape)[:, 0]
        return np.asarray(self.sign * (self.a - self.b * decay))

    def sizes_for(self, target: float) -> Floats:
        """[D] the size at which a quality is reached; infinite where the curve ends below it."""
        missing = self.a - self.sign * target
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            found = FAMILIES[self.family].inverse(missing / self.b, self.shape)
        return np.where((missing > 0) & (self.b > 0), found, np.inf)


@dataclass(frozen=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """For the file of results."""
        return {"value": self.value, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Check:
    """The largest size, predicted from the smaller ones.

    Attributes:
        expected: What they say, with the interval of what would be measured there.
        found: What was measured.
    """

    expected: Interval
    found: float

    @property
    def holds(self) -> bool:
        """Whether what was measured lies in the interval."""
        return self.expected.low <= self.found <= self.expected.high

    @property
    def error(self) -> float:
        """How far off it is."""
        return abs(self.found - self.expected.value)


@dataclass(frozen=True)
class LearningCurve:
    """What is known of a task's learning curve.

    Attributes:
        sizes: [K] numbers of training rows, ascending.
        means: [K] quality at each, over the seeds.
        spread: [K] standard deviation of one training at each size.
        best: The curve through all sizes.
        draws: The same for redrawn values.
        checks: By family, the largest size held out.
        why_not: Why it must not be used; empty where it may.
    """

    sizes: Floats
    means: Floats
    spread: Floats
    best: Curves | None
    draws: Curves | None
    checks: Mapping[str, Check]
    why_not: str = ""

    @property
    def family(self) -> str:
        """The kind of curve."""
        return self.best.family if self.best else ""

    def at(self, size: float) -> Interval:
        """The quality that one training on so many rows is expected to have."""
        assert self.best is not None and self.draws is not None
        return _predicted(self.best, self.draws, size, float(self.spread[-1]))

    def sizes_for(self, target: float) -> Interval:
        """Rows after which the curve has a quality; infinite ends where it may never have it."""
        assert self.best is not None and self.draws is not None
        drawn = self.draws.sizes_for(target)
        low, high = (float(np.quantile(drawn, q, method="higher")) for q in (0.025, 0.975))
        return Interval(float(self.best.sizes_for(target)[0]), low, high)

    @property
    def end(self) -> Interval:
        """Where the curve ends, with rows without end."""
        assert self.best is not None and self.draws is not None
        sign = self.best.sign
        return Interval(float(sign * self.best.a[0]), *ends(sign * self.draws.a))

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        best = self.best
        return {
            "family": self.family,
            "a": float(best.sign * best.a[0]) if best else None,
            "b": float(best.b[0]) if best else None,
            "shape": float(best.shape[0]) if best else None,
            "spread": self.spread.tolist(),
            "held_out": {
                name: {"expected": one.expected.to_json(), "found": one.found, "holds": one.holds}
                for name, one in self.checks.items()
            },
            "why_not": self.why_not,
        }


def fit_learning_curve(
    values: Mapping[int, Sequence[float]], *, higher: bool = True, limit: float | None = 1.0, seed: int = 0
) -> LearningCurve:
    """Fit a curve to qualities of trainings on growing numbers of rows.

    The largest size is held out first and predicted from the others, by each family. The power law with an offset is
    taken if what was measured lies in the interval of what it expects; otherwise the family that comes nearest, if its
    interval holds. The curve is then fitted to all sizes; the interval is that of ``DRAWS`` fits to values redrawn
    around the fitted ones with the spread of the seeds, and holds the spread of one further training besides.

    Args:
        values: Qualities by number of rows, one for each seed; every size has as many.
        higher: Whether more is better.
        limit: The best value that there is: 1 of a share; 0 of a loss; None where there is none.
        seed: Of the draws.
    """
    sizes = np.array(sorted(values), dtype=np.float64)
    means = np.array([np.mean(values[int(n)]) for n in sizes])
    counts = np.array([len(values[int(n)]) for n in sizes], dtype=np.float64)
    if len(sizes) < FEWEST:
        why = f"{len(sizes)} sizes are too few; a curve and a point to check it take {FEWEST}"
        return LearningCurve(sizes, means, np.full(len(sizes), np.nan), None, None, {}, why)
    spread = _spread(values, sizes, higher, limit)
    fitted = {name: _fitted(name, sizes, means, counts, spread, higher, limit, seed) for name in FAMILIES}
    checks = {}
    for name in FAMILIES:
        best, draws = _fitted(name, sizes[:-1], means[:-1], counts[:-1], spread[:-1], higher, limit, seed)
        noise = float(spread[-1] / np.sqrt(counts[-1]))
        checks[name] = Check(_predicted(best, draws, float(sizes[-1]), noise), float(means[-1]))
    chosen = (
        POWER if checks[POWER].holds else min(checks, key=lambda name: (not checks[name].holds, checks[name].error))
    )
    best, draws = fitted[chosen]
    return LearningCurve(sizes, means, spread, best, draws, checks, _why_not(checks[chosen], best, draws))


def _why_not(check: Check, best: Curves, draws: Curves) -> str:
    if not check.holds:
        one = check.expected
        return (
            f"no curve through the smaller sizes predicts the largest: {one.value:.3f} ({one.low:.3f} to "
            f"{one.high:.3f}) was expected there, and {check.found:.3f} found"
        )
    if best.b[0] <= 0 or np.mean(draws.b <= 0) > 0.025:
        return "the quality does not clearly grow with the rows in this range"
    return ""


def _predicted(best: Curves, draws: Curves, size: float, noise: float) -> Interval:
    """A value at a size; the noise of what is measured there is added by fixed quantiles, not by chance."""
    drawn = draws.at(size)
    quantiles = np.linspace(0.5 / 41, 1 - 0.5 / 41, 41)
    low, high = ends((drawn[:, None] + noise * _normal(quantiles)[None, :]).ravel())
    return Interval(float(best.at(size)[0]), low, high)


def _normal(quantiles: Floats) -> Floats:
    from_uniform = np.vectorize(_STANDARD.inv_cdf)
    return np.asarray(from_uniform(quantiles))


def _spread(values: Mapping[int, Sequence[float]], sizes: Floats, higher: bool, limit: float | None) -> Floats:
    """[K] standard deviation of one training at each size; from what a curve leaves where there is one seed only."""
    runs = [np.asarray(values[int(n)], dtype=np.float64) for n in sizes]
    freedom = np.array([len(one) - 1 for one in runs], dtype=np.float64)
    if not freedom.sum():
        means = np.array([one.mean() for one in runs])
        best = _solve(FAMILIES[POWER], sizes, means[None], np.ones(len(sizes)), higher, limit, POWER)
        left = means - np.array([best.at(n)[0] for n in sizes])
        return np.full(len(sizes), max(LEAST, float(np.sqrt((left**2).sum() / max(1, len(sizes) - 3)))))
    own = np.array([one.var(ddof=1) if len(one) > 1 else 0.0 for one in runs])
    common = float((own * freedom).sum() / freedom.sum())
    return np.asarray(np.sqrt(np.maximum((POOLED * common + freedom * own) / (POOLED + freedom), LEAST**2)))


def _fitted(
    name: str,
    sizes: Floats,
    means: Floats,
    counts: Floats,
    spread: Floats,
    higher: bool,
    limit: float | None,
    seed: int,
) -> tuple[Curves, Curves]:
    """The best curve, and those of redrawn values."""
    family, error = FAMILIES[name], spread / np.sqrt(counts)
    best = _solve(family, sizes, means[None], error, higher, limit, name, fine=True)
    centre = np.array([best.at(n)[0] for n in sizes])
    # few seeds know their own spread badly: Student's t in place of a normal distribution
    freedom = max(1.0, float((counts - 1).sum()))
    noise = np.random.default_rng(seed).standard_t(freedom, size=(DRAWS, len(sizes))) * error
    return best, _solve(family, sizes, centre + noise, error, higher, limit, name)


def _solve(
    family: Family,
    sizes: Floats,
    values_DK: Floats,
    error: Floats,
    higher: bool,
    limit: float | None,
    name: str,
    fine: bool = False,
) -> Curves:
    """Weighted least squares of every draw over all shapes."""
    sign = 1.0 if higher else -1.0
    y, weight = sign * values_DK, 1 / error**2
    most = None if limit is None else sign * limit
    shapes = family.shapes(sizes)
    a, b, left = _linear(family, sizes, shapes, y, weight, most)
    chosen = left.argmin(0)
    if fine:  # once more between the neighbours of the best shape
        i = int(chosen[0])
        shapes = np.geomspace(shapes[max(0, i - 1)], shapes[min(len(shapes) - 1, i + 1)], 400)
        a, b, left = _linear(family, sizes, shapes, y, weight, most)
        chosen = left.argmin(0)
    each = np.arange(len(y))
    return Curves(name, a[chosen, each], b[chosen, each], shapes[chosen], sign)


def _linear(
    family: Family, sizes: Floats, shapes: Floats, y_DK: Floats, weight: Floats, most: float | None
) -> tuple[Floats, Floats, Floats]:
    """[C, D] a and b with b at least 0 and a at most the best value, and the weighted squares that they leave."""
    x = family.decay(sizes, shapes)
    total = weight.sum()
    x_mean, y_mean = (x * weight).sum(1) / total, (y_DK * weight).sum(1) / total
    x_free, y_free = x - x_mean[:, None], y_DK - y_mean[:, None]
    b = -((x_free * weight) @ y_free.T) / np.maximum(((x_free**2) * weight).sum(1), 1e-300)[:, None]
    b = np.maximum(b, 0.0)
    a = y_mean[None, :] + b * x_mean[:, None]
    if most is not None:
        bounded = (a > most) if family.offset else np.ones_like(a, dtype=bool)
        b_bounded = ((x * weight) @ (most - y_DK).T) / np.maximum(((x**2) * weight).sum(1), 1e-300)[:, None]
        a, b = np.where(bounded, most, a), np.where(bounded, np.maximum(b_bounded, 0.0), b)
    left = y_DK[None] - (a[:, :, None] - b[:, :, None] * x[:, None, :])
    return a, b, np.asarray((left**2 * weight).sum(2))
