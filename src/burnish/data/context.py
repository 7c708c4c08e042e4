"""Is the answer in the context? A model that is taught answers which it cannot find there is taught to make them up."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.core.findings import Finding
from burnish.data.example import Example
from burnish.data.recheck import squeezed
from burnish.data.render import Rendered

ENOUGH = 0.9
"""Share of the rows whose answer stands in their context from which on nobody needs to be warned."""


def answers_in_context(name: str, sample: Sequence[tuple[Example, Rendered]]) -> list[Finding]:
    """The share of a split's questions of which an answer stands word for word in the context, case and spaces aside.

    Args:
        name: The split.
        sample: Evenly spaced examples of it, and the same rendered; rows without a context are passed over.
    """
    asked = [e for e, _ in sample if e.items and len(e.marks) == 1 and str(e.marks[0]).strip()]
    if not asked:
        return []
    missing = [e.id for e in asked if not any(squeezed(a) in squeezed(str(e.marks[0])) for a in e.items)]
    share = 1 - len(missing) / len(asked)
    few = share < ENOUGH
    return [
        Finding(
            "warning" if few else "note",
            "data.answer-in-context",
            f"in {share:.0%} of {len(asked)} {name} rows looked at, the answer stands in the context",
            missing[0] if missing else f"data.{name}",
            "From the others a model learns to answer with what the context does not say." if few else "",
            "Look at these rows; answers in other words than the context's are fine if they are meant." if few else "",
            {"rows": len(asked), "missing": len(missing), "first": list(missing[:20])},
        )
    ]
