"""What the task gained beside what the model forgot: for the terminal a line, for the page a section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from burnish.report.charts import Chart, Point, Series, line_chart
from burnish.report.examples import visible
from burnish.report.metrics import METRICS, metric_of, score
from burnish.report.numbers import DASH, count, decimal, number, plural, share, signed
from burnish.report.read import Run, mapping, objects
from burnish.report.verdict import main_metric

WORST = 3
Row = tuple[str, tuple[str, ...]]


@dataclass(frozen=True)
class Forgetting:
    """The section of the page.

    Attributes:
        sentence: Gain and loss in words.
        note: What was measured, and how.
        head: Names of the columns of the parts.
        parts: Every domain and suite.
        lost: Questions that were right before and are wrong now.
        layers: How far every layer moved.
        chart: Task and retention over the training.
    """

    sentence: str
    note: str
    head: tuple[str, ...]
    parts: list[Row]
    lost: list[tuple[str, str, str, str]]
    layers: list[Row]
    chart: Chart | None


def forgetting(run: Run) -> Forgetting | None:
    """The section of a run that measured it; None of others."""
    found = mapping(run.evaluation.get("retention"))
    sentence = retention_sentence(run.evaluation)
    if not sentence:
        return None
    reads = found.get("measure") == "representations"
    head = ("Kind", "Before", "After", "Left", "95 % interval", "KL", "Same top token")
    return Forgetting(
        sentence=sentence,
        note=f"{_size(found)} {_NOTES['representations' if reads else 'predictions']}",
        head=("Kind", "Left", "95 % interval") if reads else head,
        parts=[_short(row) for row in _parts(found)] if reads else _parts(found),
        lost=[
            (str(one.get("suite")), visible(one.get("question")), visible(one.get("answer")), visible(one.get("now")))
            for one in objects(found.get("lost"))
        ],
        layers=[_layer(row) for row in objects(found.get("layers"))],
        chart=chart(run),
    )


def retention_sentence(evaluation: Mapping[str, Any]) -> str:
    """``gained +0.41 macro-F1 on the task, lost 3.2 % of what it knew (95 % interval 2.1 to 4.4 %)``."""
    found = mapping(evaluation.get("retention"))
    whole = mapping(mapping(found.get("change")).get("score"))
    value, low, high = (number(whole.get(key)) for key in ("value", "low", "high"))
    if value is None or low is None or high is None:
        return ""
    gained = _gained(evaluation)
    if found.get("measure") == "representations":
        cka = number(mapping(found.get("change")).get("cka"))
        opening = f"{gained}and " if gained else ""
        return (
            f"{opening}what the head reads of general texts has a mean cosine of {decimal(value)} "
            f"(95 % interval {decimal(low)} to {decimal(high)}) to what it was"
            + (f", linear CKA {decimal(cka)}" if cka is not None else "")
        )
    between = f"95 % interval {_percent(1 - high)} to {share(1 - low)}"
    if value >= 1:
        return f"{gained}lost nothing of what it knew ({between})"
    return f"{gained}lost {share(1 - value)} of what it knew ({between}); least is left of {_worst(found)}"


def _size(found: Mapping[str, Any]) -> str:
    """``60 texts and 120 questions (general), 7,957 tokens.``"""
    asked = f" and {plural(found.get('questions'), 'question')}" if number(found.get("questions")) else ""
    names = ", ".join(str(one.get("path")) for one in objects(found.get("sources")))
    return f"{plural(found.get('texts'), 'text')}{asked} ({names}), {count(found.get('tokens'))} tokens."


def _percent(value: float) -> str:
    return decimal(max(0.0, value) * 100, 1)


def _gained(evaluation: Mapping[str, Any]) -> str:
    base, tuned = mapping(evaluation.get("base")), mapping(evaluation.get("tuned"))
    metric = main_metric(base, tuned)
    if metric is None:
        return ""
    before, after = score(base, metric.name).value, score(tuned, metric.name).value
    assert before is not None and after is not None
    gain = metric.gain(before, after)
    verb = {1: "gained", -1: "lost", 0: "stayed"}[gain]
    change = f"{signed(after - before, metric.digits)} {metric.sentence}" if gain else "what it was"
    return f"{verb} {change} on the task, "


def _worst(found: Mapping[str, Any]) -> str:
    change = mapping(found.get("change"))
    parts = {**mapping(change.get("domains")), **mapping(change.get("suites"))}
    left = [(name, number(mapping(mapping(one).get("retention")).get("value"))) for name, one in parts.items()]
    known = sorted((value, name) for name, value in left if value is not None and value < 1)
    return ", ".join(f"{name} ({share(value)})" for value, name in known[:WORST])


def _parts(found: Mapping[str, Any]) -> list[Row]:
    rows: list[Row] = []
    for kind, metric, name in (("domains", "perplexity", "text, perplexity"), ("suites", "accuracy", "questions")):
        before, after, change = (mapping(mapping(found.get(s)).get(kind)) for s in ("before", "after", "change"))
        for part, told in change.items():
            sides = [mapping(mapping(one.get(part)).get(metric)).get("value") for one in (before, after)]
            left = mapping(mapping(told).get("retention"))
            between = f"{share(left.get('low'))} to {share(left.get('high'))}"
            kl, same = (mapping(mapping(told).get(key)).get("value") for key in ("kl", "agreement"))
            shown = [share(v) if kind == "suites" else decimal(v, 2) for v in sides]
            last = (decimal(kl), share(same) if number(same) is not None else DASH)
            rows.append((str(part), (name, *shown, share(left.get("value")), between, *last)))
    return rows


def _short(row: Row) -> Row:
    """Without the columns that a model with a new head has nothing for."""
    name, cells = row
    return name, ("text, cosine", *cells[3:5])


def _layer(row: Mapping[str, Any]) -> Row:
    layer = number(row.get("layer"))
    name = "outside the layers" if layer is None or layer < 0 else f"{layer:.0f}"
    relative, rank = row.get("relative"), row.get("rank")
    cells = (share(relative, 2), decimal(rank, 1), decimal(row.get("cka"), 4), decimal(row.get("cosine"), 4))
    return name, cells


def chart(run: Run) -> Chart | None:
    """The task's score on the validation rows and the retention on some texts, over the training."""
    kept: list[Point] = [(0.0, 1.0)] + [(float(r["step"]), number(r.get("retention"))) for r in run.retained]
    if len(kept) < 2:
        return None
    names = [n for n in ("macro_f1", "accuracy", "exact_match") if any(number(r.get(n)) for r in run.validation)]
    name = names[0] if names else "loss"
    label = metric_of(name).label if name in METRICS else name
    task: list[Point] = [(float(r["step"]), number(r.get(name))) for r in run.validation]
    if name == "loss":
        task = [(x, 2.718281828459045**-y if y is not None else None) for x, y in task]
        label = "exp(−loss)"
    series = [Series(f"task: {label}", task, "valid", dots=True), Series("retention", kept, "second", dots=True)]
    caption = "On the validation rows, and on a text or a few of each domain; 1 means that nothing was lost."
    return line_chart("Task and retention", series, caption=caption, large=True)


_NOTES = {
    "predictions": "“Left” is the perplexity before over the perplexity after of a domain, and 1 less the loss of "
    "accuracy of a suite; the retention is the mean of all parts, each cut at 100 %. KL is that of the tuned model’s "
    "predictions from the original’s, in nats a token, with all but the 64 likeliest tokens taken as one.",
    "representations": "The head is new, so there are no predictions of tokens to compare: “left” is the mean cosine "
    "between what the head reads of a text before and after. It says how far the model moved, not what it can no "
    "longer do.",
}
