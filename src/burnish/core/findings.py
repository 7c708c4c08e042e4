"""One type for everything that Burnish has to say about a run: before, during and after it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from burnish.core.errors import UserError

Severity = Literal["note", "warning", "stop"]


@dataclass(frozen=True)
class Finding:
    """One observation with its place, its reason and its fix.

    Attributes:
        severity: ``note`` informs, ``warning`` deserves a look, ``stop`` refuses the run.
        code: A stable name such as ``mask.no-target-tokens``; room first, then the fault.
        what: The observation in one sentence.
        where: File, row, recipe key or tensor.
        why: Why it matters.
        fix: What to change.
        evidence: The numbers behind it; JSON values only.
    """

    severity: Severity
    code: str
    what: str
    where: str = ""
    why: str = ""
    fix: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def refuse_stops(findings: Iterable[Finding]) -> None:
    """Raise one ``UserError`` that names every finding of severity ``stop``; return if there is none."""
    stops = [f for f in findings if f.severity == "stop"]
    if not stops:
        return
    if len(stops) == 1:
        raise UserError(_sentence(stops[0]), where=stops[0].where, fix=stops[0].fix)
    lines = "\n".join(f"  - {_sentence(f)} [{f.where}] {f.fix}" for f in stops)
    raise UserError(f"{len(stops)} faults stop this run:\n{lines}")


def _sentence(finding: Finding) -> str:
    return f"{finding.what} ({finding.code})" + (f" {finding.why}" if finding.why else "")
