"""From every round's measurements to the comparison: who did the same job, and how much faster, leaner or better."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from burnish.benchmarks.process import Result

MEASURES = (
    "tokens_per_second",
    "examples_per_second",
    "peak_bytes",
    "startup_seconds",
    "held_out_loss",
    "held_out_accuracy",
)
SAME = {
    "updates": "updates",
    "tokens": "tokens",
    "trained_tokens": "trained tokens",
    "token_sum": "sum of token ids",
    "label_sum": "sum of labels",
}
"""What the rows themselves decide, by its name in a sentence."""


@dataclass(frozen=True)
class Spread:
    """Least, middle and greatest of some values."""

    minimum: float
    median: float
    maximum: float


@dataclass(frozen=True)
class Line:
    """A contender in the comparison.

    Attributes:
        name: Who.
        why_not: Why it is not compared; empty if it is.
        spreads: Each measure over the rounds.
        ratios: Each measure over Burnish's of the same round; the loss and the accuracy too.
        faster: Burnish's tokens per second over the contender's, round by round.
    """

    name: str
    why_not: str
    spreads: dict[str, Spread]
    ratios: dict[str, Spread]
    faster: Spread | None

    def to_json(self) -> dict[str, Any]:
        """For the file of results."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Minimum, median and maximum."""
    return Spread(min(values), statistics.median(values), max(values))


def compare(rounds: Mapping[str, Sequence[Result]], expected: Mapping[str, int], ours: str = "burnish") -> list[Line]:
    """Hold every contender's rounds against Burnish's.

    Args:
        rounds: The measurements of each contender, in the order of its rounds.
        expected: What the rows give: updates, tokens, trained tokens and their sums.
        ours: Whose measurements the ratios are relative to, and whose number of trained parameters and of threads
            the others must have; without it, those of the first that ran.
    """
    good = [r for name in (ours, *rounds) for r in rounds.get(name, ()) if "failed" not in r]
    first = good[0] if good else {}
    reference = list(rounds.get(ours, ()))
    if any(differences(r, expected, first) for r in reference):
        reference = []
    return [line(name, results, reference, expected, first) for name, results in rounds.items() if results]


def line(
    name: str, results: Sequence[Result], reference: Sequence[Result], expected: Mapping[str, int], first: Result
) -> Line:
    """One contender's line."""
    failed = next((r["failed"] for r in results if "failed" in r), "")
    whys = [why for r in results if "failed" not in r for why in differences(r, expected, first)]
    good = [r for r in results if "failed" not in r]
    spreads = {m: spread([r[m] for r in good]) for m in MEASURES if good and all(m in r for r in good)}
    why_not = f"did not run: {failed}" if failed else f"another job: {'; '.join(dict.fromkeys(whys))}" if whys else ""
    if why_not:
        return Line(name, why_not, spreads, {}, None)
    pairs = list(zip(results, reference, strict=False))  # the rounds that both have
    ratios = {m: spread([a[m] / b[m] for a, b in pairs]) for m in spreads if pairs and all(b.get(m) for _, b in pairs)}
    faster = spread([b["tokens_per_second"] / a["tokens_per_second"] for a, b in pairs]) if pairs else None
    return Line(name, "", spreads, ratios, faster)


def differences(result: Result, expected: Mapping[str, int], first: Result) -> list[str]:
    """What a contender did otherwise than it was asked to, each in a clause; empty if it did the same job."""
    if "failed" in result:
        return [result["failed"]]
    found = [
        f"{result[key]:,} {words}, the rows give {expected[key]:,}"
        for key, words in SAME.items()
        if key in expected and result[key] != expected[key]
    ]
    for key, words in (("trained_parameters", "trained parameters"), ("threads", "threads")):
        if result[key] != first[key]:
            found.append(f"{result[key]:,} {words} in place of {first[key]:,}")
    return found
