"""Numbers as people read them, the same in the terminal and on the page."""

from __future__ import annotations

from burnish.compare.basis import seeds_in_words
from burnish.compare.results import Line, Results
from burnish.compare.statistics import METRICS, Estimate, Pair

DASH = "–"
UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def quality(one: Estimate) -> str:
    """A value of three digits."""
    return f"{one.value:.3f}"


def interval(one: Estimate) -> str:
    """Its interval."""
    return f"{one.low:.3f} to {one.high:.3f}"


def size(number: float | None) -> str:
    """Bytes."""
    if number is None:
        return DASH
    unit, name = next(((u, n) for u, n in UNITS if number >= u), UNITS[-1])
    return f"{number / unit:.1f} {name}" if number < 100 * unit else f"{number / unit:,.0f} {name}"


def forward(line: Line, name: str) -> str:
    """Milliseconds of a forward pass, and what they are to the base's."""
    seconds = line.latency.get(name)
    if seconds is None:
        return {"merged": "cannot be merged"}.get(name, DASH) if "not_mergeable" in line.latency else DASH
    base = line.latency.get("base")
    beside = f" ({seconds / base - 1:+.0%})" if base and name != "base" else ""
    return f"{seconds * 1000:.1f} ms{beside}"


def against_best(results: Results, line: Line) -> str:
    """Whether a line differs from the best one."""
    pair = results.against_best(line.label)
    if line is results.measured[0]:
        return "best"
    if pair is None:
        return "not compared: no seed in common"
    return f"{pair.difference.value:+.3f}, {p_value(pair)}" if pair.significant else no_difference(pair)


def no_difference(pair: Pair) -> str:
    """For a pair that chance explains."""
    return f"{pair.difference.value:+.3f}, no significant difference ({p_value(pair)})"


def p_value(pair: Pair) -> str:
    """The corrected p-value."""
    return "p < 0.001" if pair.adjusted < 0.001 else f"p = {pair.adjusted:.2g}"


def arrow(metric: str) -> str:
    """Which way is better."""
    return "more is better" if METRICS[metric][1] else "less is better"


def title(results: Results) -> str:
    """What the qualities are of."""
    return f"{results.measured_on}, {seeds_in_words(results.seeds)}; {arrow(results.metric)}"


def about(results: Results) -> str:
    """Model and budget in one line."""
    facts = results.about
    budget = f"{facts['budget']:,} trained parameters for each" if facts.get("budget") else "each at its own size"
    minutes = f", {facts['minutes']:g} minutes of training in all" if facts.get("minutes") else ""
    return f"{results.job} ({results.parameters:,} parameters), {budget}{minutes}"


def seconds(value: float) -> str:
    """A duration, with a decimal where it is short."""
    return f"{value:.1f} s" if value < 10 else f"{value:,.0f} s"
