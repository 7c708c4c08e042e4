"""Which learning rate a range test suggests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from burnish.diagnose.statistics import Floats, noise

WINDOW = 5
"""Updates that a slope is taken over, on each side."""
CLEAR = 2.0
"""Standard errors that a fall has to exceed."""
BELOW_TURN = 10.0
"""The usual distance of a good rate from the one at which the loss turns."""
SMOOTH = 0.7
"""Weight of the past in the smoothed loss."""
ENOUGH = 8


@dataclass(frozen=True)
class Suggestion:
    """What follows from rates and losses.

    Attributes:
        rate: The suggested peak rate; None where the loss fell nowhere.
        steepest: The rate at which the loss fell fastest.
        turn: The rate at which the smoothed loss was lowest; behind it, it rose or the range ended.
        turned: Whether it rose far enough to end the test.
        why: How the suggestion came about.
    """

    rate: float | None
    steepest: float | None
    turn: float
    turned: bool
    why: str


def suggest(rates: Sequence[float], losses: Sequence[float], complains: float = 1.3) -> Suggestion:
    """A peak rate for a run, from a test whose rate rises exponentially.

    The loss is smoothed with bias correction, ``s_i = b s_(i-1) + (1 - b) l_i``, divided by ``1 - b^i``. The rate at
    which it falls fastest, by the slope of a line over eleven updates against the logarithm of the rate, is one at
    which training is fast and still safe; a tenth of the rate at which the loss turns is the other rule of thumb
    (Smith, 2017; Howard and Gugger, 2020). They err to different sides: noise moves the steepest place at random, and a
    turn is seen late when few updates were made at each rate. So the suggestion is their geometric mean, and it never
    exceeds a third of the turn.

    Args:
        rates: Rate of each update, rising.
        losses: Its loss, before the update.
        complains: How many times its minimum the smoothed loss has to reach to have turned.
    """
    smoothed = smooth(np.asarray(losses, dtype=np.float64))
    lowest = int(np.argmin(smoothed))
    turn = float(rates[lowest])
    spread = noise(np.asarray(losses, dtype=np.float64)) if len(losses) > 2 else 0.0
    # a minimum that noise alone gives must not end the test: the rise has to exceed its spread, too
    rise = smoothed[-1] - smoothed[lowest]
    turned = len(losses) >= ENOUGH and bool(smoothed[-1] > complains * smoothed[lowest] and rise > CLEAR * spread)
    start = float(np.median(smoothed[:ENOUGH]))
    if lowest < 3 or start - smoothed[lowest] < CLEAR * spread / math.sqrt(WINDOW):
        return Suggestion(None, None, turn, turned, "The smoothed loss never fell clearly below its beginning.")
    slopes = log_slopes(smoothed)[: lowest + 1]
    steepest = float(rates[int(np.argmin(slopes))])
    rate = min(math.sqrt(steepest * turn / BELOW_TURN), turn / 3)
    why = f"The loss falls fastest at {steepest:.2g} and is lowest at {turn:.2g}; between the first and a tenth of the"
    return Suggestion(rate, steepest, turn, turned, f"{why} second lies {rate:.2g}.")


def written(rate: float) -> str:
    """A rate of two digits as a recipe can hold it: YAML takes `1.0e-05` for a number, and `1e-05` for a word."""
    text = f"{rate:.2g}"
    return f"{rate:.1e}" if "e" in text else text


def smooth(losses: Floats) -> Floats:
    """[n] the exponential mean with bias correction."""
    found, mean = np.empty(len(losses)), 0.0
    for i, loss in enumerate(losses):
        mean = SMOOTH * mean + (1 - SMOOTH) * loss
        found[i] = mean / (1 - SMOOTH ** (i + 1))
    return found


def log_slopes(values: Floats) -> Floats:
    """[n] slope of the least-squares line through each value and ``WINDOW`` neighbours on either side.

    The rates rise by a constant factor, so the index is the logarithm of the rate, up to a constant.
    """
    found = np.empty(len(values))
    for i in range(len(values)):
        low, high = max(0, i - WINDOW), min(len(values), i + WINDOW + 1)
        x = np.arange(low, high) - (low + high - 1) / 2
        found[i] = float((x * values[low:high]).sum() / max(1e-12, float((x**2).sum())))
    return found
