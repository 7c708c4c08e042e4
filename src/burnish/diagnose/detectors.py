"""The table of detectors, and what they say together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from burnish.core.findings import Finding
from burnish.diagnose import gradients, loss, validation
from burnish.diagnose.series import Series

Detector = Callable[[Series], Iterator[Finding]]

DETECTORS: tuple[Detector, ...] = (
    loss.not_finite,
    loss.first_loss,
    loss.too_good,
    loss.rate_too_high,
    loss.not_moving,
    loss.spikes,
    loss.plateau,
    validation.mismatch,
    validation.overfitting,
    validation.improving,
    gradients.dead,
    gradients.layer_norms,
    gradients.clipping,
    gradients.batch_hint,
)
"""Each looks at one thing; another kind of fault is one more function here."""

EXPLAINS: Mapping[str, tuple[str, ...]] = {
    "loss.not-finite": ("loss.diverged", "loss.rate-too-high"),
    "loss.diverged": (
        "loss.not-learning",
        "gradients.exploding",
        "loss.spikes",
        "validation.overfitting",
        "validation.mismatch",
    ),
    "loss.rate-too-high": ("loss.not-learning", "gradients.exploding", "loss.spikes", "validation.mismatch"),
    "validation.mismatch": ("validation.overfitting",),
    "loss.suspiciously-high": ("loss.not-learning",),
    "gradients.vanishing": ("loss.not-learning", "loss.rate-too-low"),
}
"""What one finding explains, and what is therefore not said a second time."""

ORDER = {"stop": 0, "warning": 1, "note": 2}
PREFIXES = ("loss.", "validation.", "gradients.")
"""Codes that come from here."""


def diagnose(series: Series) -> list[Finding]:
    """Everything that the curves say, the gravest first; each code once."""
    found: dict[str, Finding] = {}
    for detector in DETECTORS:
        for finding in detector(series):
            found.setdefault(finding.code, finding)
    explained = {code for cause in found for code in EXPLAINS.get(cause, ())}
    return sorted((f for f in found.values() if f.code not in explained), key=lambda f: ORDER[f.severity])


def alarms(series: Series) -> list[Finding]:
    """Only what asks for something to be done."""
    return [finding for finding in diagnose(series) if finding.severity != "note"]


def first_alarms(series: Series, every: int = 1) -> dict[str, int]:
    """At which step each alarm is raised first when the detectors run beside the run, after every so many updates."""
    raised: dict[str, int] = {}
    for index in [*range(every - 1, len(series), every), len(series) - 1]:
        step = series.step(index)
        for finding in alarms(series.until(step)):
            raised.setdefault(finding.code, step)
    return raised
