"""From the runs to the comparison: a line for every variant, the pairs, and what may be said of them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.compare.basis import Basis, better
from burnish.compare.outcome import Outcome
from burnish.compare.statistics import METRICS, Estimate, Pair, estimate, pairs, resampled
from burnish.compare.trials import Prepared

FACTS = ("trainable", "peak_bytes", "tokens_per_second", "training_seconds", "updates", "checkpoint_bytes")
FORWARD = ("base", "unmerged", "merged")
UNTOUCHED = "(untouched base)"


@dataclass(frozen=True)
class Line:
    """One variant.

    Attributes:
        label: Its name.
        sized: What was chosen to meet the budget.
        why_not: Why it has no numbers, or why some of its runs are missing.
        quality: Its quality by metric.
        facts: Medians over the seeds.
        latency: Median seconds of a forward pass; ``not_mergeable`` and ``whole_model`` as ``latencies`` says.
        runs: Finished runs.
    """

    label: str
    sized: str = ""
    why_not: str = ""
    quality: dict[str, Estimate] = field(default_factory=dict)
    facts: dict[str, float] = field(default_factory=dict)
    latency: dict[str, Any] = field(default_factory=dict)
    runs: int = 0


@dataclass(frozen=True, kw_only=True)
class Results(Basis):
    """The comparison.

    Attributes:
        seeds: Runs wanted for each variant.
        lines: Every variant, the best first, those without numbers last.
        pairs: Every two with numbers.
        base: The untouched model, where it can do the task at all.
        majority: What the most frequent class reaches in this metric.
        parameters: Of the model.
    """

    seeds: int
    lines: tuple[Line, ...]
    pairs: tuple[Pair, ...]
    base: Estimate | None = None
    majority: float | None = None
    parameters: int = 0

    @property
    def measured(self) -> list[Line]:
        """Lines with numbers, the best first."""
        return [line for line in self.lines if line.quality]

    def against_best(self, label: str) -> Pair | None:
        """The pair of a line and the best one, with the difference seen from the line."""
        if not self.measured or label == (best := self.measured[0].label):
            return None
        for pair in self.pairs:
            if (pair.first, pair.second) == (label, best):
                return pair
            if (pair.first, pair.second) == (best, label):
                return turned(pair)
        return None

    def to_json(self) -> dict[str, Any]:
        """For ``compare.json``."""
        return {
            **self.basis(),
            "seeds": self.seeds,
            "model_parameters": self.parameters,
            "verdict": verdict(self),
            "untouched_base": self.base.to_json() if self.base else None,
            "majority": self.majority,
            "methods": [
                {
                    "label": line.label,
                    "runs": line.runs,
                    "sized": line.sized,
                    "why_not": line.why_not,
                    "quality": {name: one.to_json() for name, one in line.quality.items()},
                    **line.facts,
                    "forward_seconds": line.latency,
                }
                for line in self.lines
            ],
            "pairs": [pair.to_json() for pair in self.pairs],
        }


def turned(pair: Pair) -> Pair:
    """The same pair seen from its second."""
    d = pair.difference
    other = Estimate(-d.value, -d.high, -d.low, tuple(-s for s in d.seeds), d.p)
    return Pair(pair.second, pair.first, other, pair.p, pair.adjusted)


def gather(
    prepared: Sequence[Prepared],
    outcomes: Mapping[str, Sequence[Outcome]],
    failures: Mapping[str, str],
    *,
    metric: str,
    seeds: int,
    about: dict[str, Any],
) -> Results:
    """Put everything together.

    Args:
        prepared: The variants in their order.
        outcomes: Finished runs by label.
        failures: Why runs of a label did not finish.
        metric: The metric that decides; the loss where a run has no classes.
        seeds: Runs wanted for each variant.
        about: What was compared.
    """
    good = {label: list(found) for label, found in outcomes.items() if found}
    first = next((found[0] for found in good.values()), None)
    if first is None:
        bare = tuple(Line(p.variant.label, p.sized, p.refused or failures.get(p.variant.label, "")) for p in prepared)
        return Results(metric=metric, rows=0, split="", seeds=seeds, lines=bare, pairs=(), about=about)
    good = {label: [o for o in found if o.scored.ids == first.scored.ids] for label, found in good.items()}
    weights = resampled(len(first.scored.ids))
    shown = [name for name in METRICS if name == "loss" or first.scored.classes]
    metric = metric if metric in shown else "loss"
    lines = []
    for one in prepared:
        found = good.get(one.variant.label, [])
        why = one.refused or failures.get(one.variant.label, "")
        quality = {name: estimate([o.scored for o in found], name, weights) for name in shown} if found else {}
        lines.append(Line(one.variant.label, one.sized, why, quality, _facts(found), _latency(found), len(found)))
    lines.sort(key=lambda line: -better(metric) * line.quality[metric].value if line.quality else float("inf"))
    by_seed = {line.label: {o.seed: o.scored for o in good[line.label]} for line in lines if line.quality}
    majority = first.majority.get(metric)
    return Results(
        metric=metric,
        rows=len(first.scored.ids),
        split=first.split,
        seeds=seeds,
        lines=tuple(lines),
        pairs=tuple(pairs(by_seed, metric, weights)),
        base=estimate([first.base], metric, weights) if first.base else None,
        majority=float(majority) if majority is not None else None,
        parameters=int(first.facts["parameters"]),
        about=about,
    )


def _facts(found: Sequence[Outcome]) -> dict[str, float]:
    return {name: statistics.median(o.facts[name] for o in found) for name in FACTS} if found else {}


def _latency(found: Sequence[Outcome]) -> dict[str, Any]:
    known = [o.latency for o in found if o.latency]
    if not known:
        return {}
    numbers = {name: statistics.median(one[name] for one in known) for name in FORWARD if all(name in k for k in known)}
    return {**known[0], **numbers}


def verdict(results: Results) -> list[str]:
    """What may be said, in sentences."""
    ranked = results.measured
    if not ranked:
        return ["No run finished, so there is nothing to compare."]
    best = ranked[0]
    said = [f"Best {results.name}: {best.label}, {best.quality[results.metric].value:.3f}."]
    if len(ranked) == 1:
        return said
    if not any(pair.significant for pair in results.pairs):
        few = "" if results.seeds > 2 else "; more seeds would tell more"
        return [*said, f"No significant difference between any two of the {len(ranked)} methods{few}."]
    against = {line.label: results.against_best(line.label) for line in ranked[1:]}
    alike = [label for label, pair in against.items() if pair and not pair.significant]
    worse = [label for label, pair in against.items() if pair and pair.significant]
    if alike:
        said.append(f"No significant difference to it: {', '.join(alike)}.")
    if worse:
        said.append(f"Significantly worse: {', '.join(worse)}.")
    smallest = min(
        (line for line in ranked if line.label in [best.label, *alike]), key=lambda line: line.facts["trainable"]
    )
    if smallest is not best:
        said.append(
            f"Of those that are not significantly worse, {smallest.label} trains the fewest parameters "
            f"({smallest.facts['trainable']:,.0f})."
        )
    return said
