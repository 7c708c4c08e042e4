"""What the training loss says of learning rate, data and masks. Each detector is a function from a series to findings.

Thresholds stand at the top with their reason; `docs/diagnosis.md` has what they were set on and how they do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from burnish.core.findings import Finding
from burnish.diagnose.moves import agreement, movement, weight_ratio
from burnish.diagnose.series import Series
from burnish.diagnose.statistics import (
    autocorrelation,
    first_lasting,
    level,
    noise,
    running_median,
    trailing_median,
    trend,
)

WINDOW = 7
"""Updates that a level is taken over."""
SETTLED = 6
"""Updates before which nothing is said of a curve."""
RISE = 0.15
"""A level so much above the beginning is a loss that rises; healthy runs stay within a few per cent of it."""
DIVERGED = 0.5
"""At the end of what is recorded, a level so much above the beginning has diverged."""
WILD = 3.0
"""Errors of a level that a rise has to exceed."""
LARGE_UPDATE = 0.1
"""An update of a tenth of the weights: a hundred times the usual thousandth."""
SMALL_UPDATE = 3e-3
"""Updates above this, by the norm of the weights, are not small, whatever the loss does."""
SWING = -0.8
"""Lag-1 autocorrelation below which a loss swings from update to update; noise has -0.43, with an error of 0.12."""
JUDGED = 0.4
"""Share of the run after which a loss that has not moved is called so."""
FEWEST = 20
"""Updates that this takes at least."""
UNLEARNT = 0.05
"""A loss within this share of guessing has learnt nothing."""
STANDSTILL, CREEP, BACK = 0.08, 0.03, 0.004
"""Of validation losses that fall at nearly every evaluation: most that they fell in all, from one to the next, and that
one of them rose. Weights that are thrown about move them by more, whatever they learn."""
EVALUATIONS = 3
"""Evaluations without which a run that has some is not judged."""
SLOW = 0.15
"""Gradients agree from update to update, and the loss has fallen by less than this: it could go faster."""
AGREES, AGREES_A_LITTLE = 0.3, 0.12
"""Share of a gradient's square that is signal; above the first more speed costs nothing. Above the second a loss that
has not moved is one that could."""
LOW_SHARE = {True: 0.02, False: 0.5}
"""A first loss below this share of guessing is suspicious, for a model that writes already and for a new head."""
PERFECT = 0.02
"""Of rows that were never seen before, nobody knows the answers to this share of guessing."""
EARLY = 0.85
"""Share of the first pass over the rows within which that is suspicious."""
SPIKE, SPIKE_SHARE = 8.0, 0.1
"""A spike stands out by so many spreads, and by this share of the first loss."""
FEWEST_SPIKES = 2


def not_finite(series: Series) -> Iterator[Finding]:
    """A loss that is no number."""
    if series.broken:
        step = series.broken[0]
        yield Finding(
            "stop", "loss.not-finite", f"the loss of update {step} is not finite", f"update {step}",
            "From there on every weight is spoilt; what was recorded later means nothing.",
            "go back to the checkpoint before it, lower the learning rate, or compute in fp32",
            {"since": step, "updates": len(series.broken)},
        )  # fmt: skip


def first_loss(series: Series) -> Iterator[Finding]:
    """A first loss that is much lower or higher than somebody who knows nothing would have."""
    facts = series.facts
    if not len(series) or series.step(0) != 1 or facts.chance is None:
        return
    first, uniform = float(series.loss[0]), facts.uniform or facts.chance
    evidence = {"since": 1, "loss": first, "guessing": facts.chance}
    if first < LOW_SHARE[facts.text] * facts.chance:
        yield Finding(
            "warning", "loss.suspiciously-low", f"the first loss is {first:.3g}, where guessing has {facts.chance:.3g}",
            "update 1", "Before any update a model cannot know the answers: they leak into its input, or the mask "
            "leaves only what is trivial to predict.",
            "look at the marked tokens of `burnish inspect`, and at rows whose prompt holds the answer", evidence,
        )  # fmt: skip
    if first > 1.5 * uniform + 0.5:
        yield Finding(
            "warning", "loss.suspiciously-high", f"the first loss is {first:.3g}, where guessing has {uniform:.3g}",
            "update 1", "A model that is sure of wrong answers was initialised wrongly, or its labels are shifted.",
            "look at the initial values of the head, and at the order of the labels", evidence,
        )  # fmt: skip


def too_good(series: Series) -> Iterator[Finding]:
    """Nearly perfect answers on rows that were not seen before."""
    if len(series) < SETTLED or np.isnan(series.epoch).all():
        return
    smoothed = trailing_median(series.loss, 5)
    low = (smoothed < PERFECT * (series.facts.chance or series.start)) & (series.epoch <= EARLY)
    if np.isfinite(series.start) and series.start > 0 and low.any():
        since = series.step(int(np.argmax(low)))
        yield Finding(
            "warning", "loss.suspiciously-low",
            f"the loss fell to {float(smoothed[low][-1]):.2g} on rows that were not seen before",
            f"update {since}", "Within the first pass every row is new. Whoever knows new rows nearly by heart reads "
            "the answer off the prompt, or is asked only for what is always the same.",
            "look for the answer in the prompts, and at the trained tokens with `burnish inspect`",
            {"since": since, "loss": float(smoothed[low][-1]), "epoch": float(series.epoch[int(np.argmax(low))])},
        )  # fmt: skip


def rate_too_high(series: Series) -> Iterator[Finding]:
    """Updates that throw the weights about: a loss that rises, swings or does not settle."""
    if len(series) < SETTLED:
        return
    ratio = weight_ratio(series)
    smoothed = trailing_median(series.loss, WINDOW)
    error = max(noise(series.loss) / np.sqrt(WINDOW), 1e-9)
    # a new head begins at guessing; a first loss that is lower by chance comes back to it without any fault
    start = series.start if series.facts.text else max(series.start, series.facts.chance or series.start)
    above = (smoothed - start) / abs(start) if start else smoothed * 0
    risen = (above > RISE) & (smoothed - start > WILD * min(error, 0.1 * abs(start)))
    risen[: SETTLED - 1] = False
    swing = autocorrelation(series.loss[-40:]) if len(series) >= FEWEST else 0.0
    if ratio is not None and ratio[1] > LARGE_UPDATE:
        yield _high(series, ratio[0], f"updates move the weights by {ratio[1]:.0%} each", factor=ratio[1] / 1e-2)
    elif risen.any():
        last = bool(above[-1] > DIVERGED and risen[-1])
        since = series.step(int(np.argmax(risen)))
        if last:
            yield _diverged(series, since, float(smoothed[-1]))
        else:
            yield _high(
                series, since, f"the loss rose from {series.start:.3g} to {float(smoothed[risen].max()):.3g}", 10.0
            )
    elif swing < SWING and noise(series.loss[-40:]) > 0.1 * abs(level(series.loss[-40:])[0]):
        yield Finding(
            "warning", "loss.oscillating", f"the loss swings from update to update (autocorrelation {swing:.2f})",
            f"update {series.step(max(0, len(series) - 40))}", "Each update overshoots and the next one comes back.",
            "lower `train.learning_rate` by 3, or raise `train.batch_size`",
            {"since": series.step(max(0, len(series) - 40)), "autocorrelation": swing},
        )  # fmt: skip


def _high(series: Series, since: int, what: str, factor: float) -> Finding:
    factor = 30.0 if factor > 15 else 10.0 if factor > 5 else 3.0
    rate = series.facts.rate
    fix = f"lower `train.learning_rate` about {factor:g} times" + (f", to {rate / factor:.1e}" if rate else "")
    return Finding(
        "warning", "loss.rate-too-high", what, f"update {since}",
        "Steps that are so large jump over what is to be found; a thousandth of the weights is usual.",
        f"{fix}; `burnish lr-range` measures it", {"since": since, "factor": factor, "ratio": weight_ratio(series)},
    )  # fmt: skip


def _diverged(series: Series, since: int, now: float) -> Finding:
    rate = series.facts.rate
    return Finding(
        "warning", "loss.diverged", f"the loss rose from {series.start:.3g} to {now:.3g} and stays there",
        f"update {since}", "The weights have left the region in which the model works; they do not come back.",
        "start again with a learning rate 10 times lower" + (f", {rate / 10:.1e}" if rate else ""),
        {"since": since, "start": series.start, "now": now},
    )  # fmt: skip


def not_moving(series: Series) -> Iterator[Finding]:
    """A loss that stays where it began: because the steps are too small, or because there is nothing to be learnt."""
    few = len(series.validation) and len(series.validation) < EVALUATIONS
    if len(series) < FEWEST or series.progress < JUDGED or few:
        return
    now, _ = level(series.loss[len(series) // 2 :])
    fall = (series.start - now) / abs(series.start) if series.start else 0.0
    slow = _too_slow(series, fall)
    if slow:
        rate = series.facts.rate
        yield Finding(
            "warning", "loss.rate-too-low", f"the loss falls steadily but hardly: {series.start:.4g} to {now:.4g}",
            f"updates 1 to {series.step(-1)}", slow,
            "raise `train.learning_rate` 10 times" + (f", to {rate * 10:.1e}" if rate else "")
            + "; `burnish lr-range` measures how far it may go",
            {"since": 1, "fall": fall, "agreement": agreement(series), "movement": movement(series)},
        )  # fmt: skip
        return
    reference = series.reference
    least = min([float(now), *(series.scores if len(series.scores) else [])])
    if least > reference * (1 - UNLEARNT) and now > reference * (1 - UNLEARNT):
        yield Finding(
            "warning", "loss.not-learning", f"the loss stays at {now:.3g}, where guessing has {reference:.3g}",
            f"updates 1 to {series.step(-1)}", "The weights move, and the loss does not follow: nothing in the prompts "
            "tells the answers, or the model does not see them.",
            "look at rows and trained tokens with `burnish inspect`: labels that are shuffled or shifted, a mask that "
            "hides the text; then try a larger model or another learning rate",
            {"since": 1, "loss": float(now), "guessing": reference, "agreement": agreement(series)},
        )  # fmt: skip


def _too_slow(series: Series, fall: float) -> str:
    """Why a loss that hardly falls is too slow; empty where it is not, or where that cannot be told."""
    scores = series.scores
    if fall > SLOW:
        return ""
    moved = movement(series)
    small = moved is None or moved < SMALL_UPDATE
    if len(scores) >= EVALUATIONS and fall < STANDSTILL and small:
        changes = np.diff(scores) / scores[:-1]
        total = (scores[0] - scores[-1]) / scores[0]
        steady = float((changes < 0).mean()) >= 0.75 and 0 < total < STANDSTILL and float(changes.max()) < BACK
        if steady and float(np.abs(changes).max()) < CREEP:
            return (
                "Each evaluation is a little better than the one before, by next to nothing: the steps are too small."
            )
    agreed = agreement(series)
    if agreed is not None and (agreed > AGREES or (agreed > AGREES_A_LITTLE and abs(fall) < UNLEARNT and small)):
        return (
            f"{agreed:.0%} of each gradient's square is signal, not noise of its rows: every update asks for the same, "
            "and larger steps would get there sooner."
        )
    slope, z = trend(series.loss)
    if not len(scores) and agreed is None and z < -3 and 0 < -slope * len(series) < SLOW * abs(series.start):
        return "The loss falls along a line without bending: the steps are small beside the way."
    return ""


def plateau(series: Series) -> Iterator[Finding]:
    """A loss that fell and has come to rest: converged, if gradients no longer agree."""
    if len(series) < 2 * FEWEST:
        return
    tail = series.loss[-len(series) // 3 :]
    slope, z = trend(tail)
    now, error = level(tail)
    fell = series.start - now
    rests = abs(z) < 2 or abs(slope) * len(tail) < 0.02 * abs(fell)
    if fell > 0.1 * abs(series.start) and rests:
        agreed = agreement(series)
        since = series.step(_came_to_rest(series, now, error))
        yield Finding(
            "note", "loss.converged", f"the loss has rested at {now:.3g} since update {since}", f"update {since}",
            "What the gradients of successive updates have in common is "
            + (f"{agreed:.0%} of their square. " if agreed is not None else "not known. ")
            + "More updates at this rate bring little.",
            "stop there, or go on with more data or a larger model", {"since": since, "loss": now, "agreement": agreed},
        )  # fmt: skip


def _came_to_rest(series: Series, now: float, error: float) -> int:
    smoothed = running_median(series.loss, WINDOW)
    near = smoothed - now < max(2 * error, 0.03 * abs(series.start - now))
    return first_lasting(near) or 0


def spikes(series: Series) -> Iterator[Finding]:
    """Single updates whose loss stands far out, with the rows that they share."""
    if len(series) < FEWEST:
        return
    rest = series.loss - running_median(series.loss, 11)
    width = max(noise(series.loss), 1e-9)
    far = np.flatnonzero((rest > SPIKE * width) & (rest > SPIKE_SHARE * abs(series.start)))
    far = far[far >= 3]
    if len(far) < FEWEST_SPIKES:
        return
    steps = [series.step(int(i)) for i in far]
    rows = _rows_of(series, steps)
    named = f"; rows {', '.join(map(str, rows[:8]))}" if rows else ""
    yield Finding(
        "warning", "loss.spikes", f"{len(steps)} updates have a loss that stands {float(rest[far].max() / width):.0f} "
        "times the usual spread above its neighbours", f"updates {', '.join(map(str, steps[:8]))}{named}",
        "Single rows that are nothing like the others pull the weights their way each time.",
        "look at the rows of these updates: broken text, another language, wrong answers; drop or mend them",
        {"since": steps[0], "updates": steps, "rows": rows, "tallest": float(rest[far].max())},
    )  # fmt: skip


def _rows_of(series: Series, steps: list[int]) -> list[int]:
    """Rows that are in several of these updates; without any, those of the first one."""
    if series.facts.rows is None:
        return []
    drawn = [list(series.facts.rows(step)) for step in steps]
    flat = [row for rows in drawn for row in rows]
    repeated = sorted({row for row in flat if flat.count(row) > 1})
    return repeated or sorted(drawn[0])
