"""A few hundred damaged inputs; a hundred thousand under ``make soak``."""

from __future__ import annotations

from tests.trust.fuzz import fuzz


def test_damaged_input_is_refused_or_read() -> None:
    """Neither a traceback nor a hang, and both ends occur for every kind of input."""
    ends = fuzz(900)
    assert ends.total() >= 900
    assert {kind.split()[0] for kind, count in ends.items() if count > 10} == {"recipe", "data", "adapter"}
    assert min(ends[f"{kind} accepted"] for kind in ("recipe", "data", "adapter")) > 0
