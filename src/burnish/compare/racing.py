"""One stretch of a trial, seen from the sweep: started in a process of its own, or read where it was made before."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from burnish.compare.process import call
from burnish.compare.race import Stand, stand_file
from burnish.compare.run import Listener
from burnish.compare.trials import Trial, reason
from burnish.core.files import read_lines, write_json

Shares = dict[float, Stand]


@dataclass
class Racer:
    """Runs stretches and remembers where every trial stands.

    Attributes:
        listener: Who is told.
        total: How many stretches there will be, as far as is known.
        least_rows: Rows that a stretch comes to at least, within half of a training.
        stands: By label, seed and share.
        failures: Why trials ended early, by label.
    """

    listener: Listener
    total: int = 0
    least_rows: int = 0
    stands: dict[str, dict[int, Shares]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    number: int = 0

    def advance(self, trial: Trial, share: float) -> Stand | None:
        """Bring a trial to a share of its updates; None where it failed."""
        label = trial.variant.label
        self.listener.begins(self.number, max(self.total, self.number + 1), trial)
        self.number += 1
        known = self._known(trial, share) or self._ended(trial, share)
        if known:
            self.listener.skips(trial)
            return self._keep(trial, share, known)
        fresh = not self._goes_on(trial, share)
        options = {"until": share, "fresh": fresh, "least_rows": self.least_rows}
        told = call("stretch", trial.recipe, self.listener.moves, **options)
        if "failed" in told:
            self.failures[label] = reason(told["failed"]["what"], told["failed"]["fix"])
            self.listener.ends(trial, self.failures[label])
            return None
        write_json(trial.record, {"key": trial.key, "share": share, "least_rows": self.least_rows})
        stand = _read(trial, share)
        self.listener.ends(trial, stand)
        return self._keep(trial, share, stand)

    def _known(self, trial: Trial, share: float) -> Stand | None:
        """Where a trial stood here, if it was made before."""
        if self._record(trial) is None or not (trial.folder / stand_file(share)).is_file():
            return None
        return _read(trial, share)

    def _goes_on(self, trial: Trial, share: float) -> bool:
        """Whether a folder holds the beginning of this stretch, and is not beyond its end already."""
        record = self._record(trial)
        return record is not None and bool(record.get("share", 1.0) <= share)

    def _record(self, trial: Trial) -> dict[str, Any] | None:
        """What is known of a trial of the same recipe that paused where this race pauses."""
        if not trial.record.is_file():
            return None
        record = dict(json.loads(trial.record.read_text(encoding="utf-8")))
        same = (record.get("key"), record.get("least_rows", 0)) == (trial.key, self.least_rows)
        return record if same else None

    def _ended(self, trial: Trial, share: float) -> Stand | None:
        """Where a trial ended before this place, by early stopping: there is nothing more to train."""
        shares = self.stands.get(trial.variant.label, {}).get(trial.seed, {})
        stand = next((one for one in shares.values() if one.ended), None)
        if stand is not None:
            write_json(trial.folder / stand_file(share), stand.to_json())
        return stand

    def last(self, label: str) -> Stand | None:
        """Where the first seed of a trial stands now."""
        shares = self.stands.get(label, {}).get(0, {})
        return shares[max(shares)] if shares else None

    def _keep(self, trial: Trial, share: float, stand: Stand) -> Stand:
        self.stands.setdefault(trial.variant.label, {}).setdefault(trial.seed, {})[share] = stand
        return stand


def curve(trial: Trial, metric: str) -> list[tuple[int, float]]:
    """Updates and the metric of the validation rows, as far as a trial came."""
    path = trial.folder / "metrics.jsonl"
    rows: list[dict[str, Any]] = read_lines(path) if path.is_file() else []
    found = {
        row["step"]: row[metric] for row in rows if row.get("kind") == "validation" and row.get(metric) is not None
    }
    return sorted(found.items())


def _read(trial: Trial, share: float) -> Stand:
    return Stand.read(json.loads((trial.folder / stand_file(share)).read_text(encoding="utf-8")))
