"""What the detectors said of a run's curves at its end, for the page."""

from __future__ import annotations

from burnish.report.numbers import number
from burnish.report.read import Run, objects

SEVERITIES = ("stop", "warning", "note")


def diagnosis(run: Run) -> list[dict[str, str]]:
    """The findings on the curves in their order, each with the step since which it holds."""
    keys = ("what", "where", "why", "fix", "code")
    rows = []
    for found in objects(run.diagnosis.get("findings")):
        evidence = found.get("evidence")
        since = number(evidence.get("since")) if isinstance(evidence, dict) else None
        severity = found.get("severity")
        row = {key: str(found.get(key) or "") for key in keys}
        row["severity"] = str(severity) if severity in SEVERITIES else "note"
        rows.append({**row, "since": "" if since is None else f"step {since:g}"})
    return rows
