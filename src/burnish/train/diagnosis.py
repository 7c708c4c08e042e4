"""The detectors beside a run: advice as it goes, and on request an end or a lower rate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from burnish.core.events import (
    Action,
    Callback,
    Evaluated,
    Event,
    Finished,
    LowerRate,
    Measured,
    Noticed,
    Stepped,
    Stop,
)
from burnish.core.findings import Finding
from burnish.diagnose.detectors import alarms, diagnose
from burnish.diagnose.runs import run_facts
from burnish.diagnose.series import Series
from burnish.train.config import FindingAction
from burnish.train.folder import RunFolder
from burnish.train.loop import tell
from burnish.train.state import TrainState

LOOKS = 50
"""How often a run is looked at; besides after each evaluation."""
LOWERED = 0.5
"""What the learning rate is multiplied by."""
PATIENCE = 10
"""Updates that a lowered rate is given before it is judged."""
RATE_CODES = frozenset({"loss.rate-too-high", "loss.diverged", "loss.oscillating"})
"""Findings that a lower rate answers."""


class Diagnosis:
    """Runs the detectors as the run goes; each finding is told once.

    What it asks for follows from the log and the state alone, and both are in the checkpoints' reach: a resumed run
    decides as the unbroken one.

    Args:
        folder: The run, with what it has logged so far.
        state: Where the run stands.
        action: What a finding leads to.
        listeners: Who is told.
    """

    def __init__(
        self, folder: RunFolder, state: TrainState, action: FindingAction, listeners: Sequence[Callback]
    ) -> None:
        self.folder, self.listeners = folder, listeners
        self.react = REACTIONS[action]
        recipe, model, data = (folder.read_recipe(), folder.read("model.json"), folder.read("data.json"))
        self.facts = run_facts(recipe or {}, model or {}, data or {})
        self.lines = [row for row in folder.read_rows("metrics.jsonl") if row.get("step", 0) <= state.step]
        self.told = {row.get("code") for row in folder.read_rows("findings.jsonl")}
        self.lowered = state.rate_lowered
        self.evaluated = max((row["step"] for row in self.lines if row.get("kind") == "validation"), default=0)

    def __call__(self, event: Event) -> Action | None:
        """Take note of an event; look at the run where it is time."""
        if isinstance(event, Measured):
            self.lines.append({"kind": "gradients", "step": event.step, **event.values})
        elif isinstance(event, Evaluated):
            self.lines.append({"kind": "validation", "step": event.step, "epoch": event.epoch, **event.metrics})
            self.evaluated = event.step
        elif isinstance(event, Stepped):
            self.lines.append({"kind": "train", "step": event.step, "epoch": event.epoch, **event.metrics})
            every = max(1, (self.facts.total or LOOKS) // LOOKS)
            if self.evaluated == event.step - 1 or event.step % every == 0:
                return self._look(event.step)
        elif isinstance(event, Finished):
            found = diagnose(Series.of(self.lines, self.facts))
            self.folder.write("diagnosis.json", {"step": event.step, "findings": [f.to_json() for f in found]})
        return None

    def _look(self, step: int) -> Action | None:
        series = Series.of(self.lines, self.facts)
        found = alarms(series)
        self._tell([finding for finding in found if finding.code not in self.told])
        action = self.react(self, series, found, step)
        if isinstance(action, LowerRate):
            self.lowered = step
            self._tell([_lowered(step)])
        return action

    def _tell(self, findings: Sequence[Finding]) -> None:
        self.folder.note(findings)
        for finding in findings:
            self.told.add(finding.code)
            tell(self.listeners, Noticed(finding))


def _only_tell(diagnosis: Diagnosis, series: Series, found: Sequence[Finding], step: int) -> Action | None:
    return None


def _stop(diagnosis: Diagnosis, series: Series, found: Sequence[Finding], step: int) -> Action | None:
    return Stop(found[0].code) if found else None


def _lower(diagnosis: Diagnosis, series: Series, found: Sequence[Finding], step: int) -> Action | None:
    """Lower the rate for what a lower rate answers; after the first time only for what happened since."""
    if diagnosis.lowered is not None:
        if step - diagnosis.lowered < PATIENCE:
            return None
        found = alarms(series.since(diagnosis.lowered))
    return LowerRate(LOWERED) if any(finding.code in RATE_CODES for finding in found) else None


REACTIONS: dict[FindingAction, Callable[[Diagnosis, Series, Sequence[Finding], int], Action | None]] = {
    "tell": _only_tell,
    "stop": _stop,
    "lower_rate": _lower,
}
"""What `train.on_finding` may say."""


def _lowered(step: int) -> Finding:
    evidence: dict[str, Any] = {"since": step, "factor": LOWERED}
    return Finding(
        "note",
        "loss.rate-lowered",
        f"the learning rate is halved from update {step + 1} on",
        "train.on_finding",
        "The recipe asks for it where the rate is found to be too high.",
        "start the next run with the lower rate",
        evidence,
    )
