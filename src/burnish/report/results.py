"""Base against tuned: the table of metrics with its intervals drawn, the confusions, the scores of each class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from markupsafe import Markup

from burnish.report.metrics import Metric, Score, difference, ordered, score
from burnish.report.numbers import DASH, count, decimal, number, p_value, plural, share
from burnish.report.read import Run, mapping

MODELS = ("base", "tuned")
MOST_CLASSES = 16
WIDTH, HEIGHT = 180, 34


@dataclass(frozen=True)
class MetricRow:
    """One line of the comparison; empty text where there is nothing to say."""

    label: str
    scores: Mapping[str, tuple[str, str]]
    difference: str
    between: str
    p_value: str
    direction: str
    drawing: Markup


@dataclass(frozen=True)
class Cell:
    """One cell of a confusion matrix."""

    count: str
    share: str
    heat: float
    right: bool


@dataclass(frozen=True)
class Confusion:
    """One model's confusion matrix, or of a large one its most frequent confusions."""

    model: str
    labels: list[str]
    rows: list[tuple[str, list[Cell], str]]
    frequent: list[tuple[str, str, str]]
    small: bool


def metric_rows(run: Run) -> list[MetricRow]:
    """The comparison, one row for each metric."""
    both = {name: mapping(run.evaluation.get(name)) for name in MODELS}
    comparison = mapping(run.evaluation.get("comparison"))
    rows = []
    for metric in ordered(*both.values()):
        scores = {name: score(one, metric.name) for name, one in both.items()}
        change, between = difference(comparison, metric, scores["base"], scores["tuned"])
        p = mapping(comparison.get(metric.name)).get("p_value")
        rows.append(
            MetricRow(
                label=metric.label,
                scores={name: (one.text(metric), one.interval(metric)) for name, one in scores.items()},
                difference=change,
                between=between,
                p_value=DASH if number(p) is None else p_value(p),
                direction=_direction(metric, scores["base"], scores["tuned"]),
                drawing=interval_drawing(metric, scores["base"], scores["tuned"]),
            )
        )
    return rows


def task_parts(run: Run) -> list[dict[str, Any]]:
    """The comparison on the rows of each task alone, where tasks have classes of their own."""
    found = []
    for name, part in mapping(run.evaluation.get("tasks")).items():
        alone, common = mapping(part), mapping(mapping(part).get("majority"))
        said = (
            f"; the most frequent class, “{common.get('label')}”, reaches macro-F1 {decimal(common.get('macro_f1'), 2)}"
        )
        rows = metric_rows(replace(run, evaluation=dict(alone)))
        found.append(
            {"name": name, "rows": count(alone.get("rows")), "majority": said if common else "", "metrics": rows}
        )
    return found


def _direction(metric: Metric, base: Score, tuned: Score) -> str:
    if base.value is None or tuned.value is None:
        return ""
    return {1: "better", -1: "worse", 0: "equal"}[metric.gain(base.value, tuned.value)]


def interval_drawing(metric: Metric, base: Score, tuned: Score) -> Markup:
    """Both intervals on one scale: the metric's own where it has two ends, else just wide enough."""
    known = [v for s in (base, tuned) for v in (s.low, s.value, s.high) if v is not None]
    if not known:
        return Markup("")
    low, high = metric.scale or (min(known), max(known))
    low, high = min(low, *known), max(high, *known)
    if not 0 < high - low < 1e30:
        low, high = low - 1, low + 1

    def place(value: float) -> float:
        return 6 + (value - low) / (high - low) * (WIDTH - 12)

    parts = [Markup('<line class="rule" x1="6" x2="{}" y1="17" y2="17"/>').format(WIDTH - 6)]
    for name, one, y in (("base", base, 10), ("tuned", tuned, 24)):
        if one.value is None:
            continue
        if one.low is not None and one.high is not None:
            line = Markup('<line class="range {}" x1="{:.1f}" x2="{:.1f}" y1="{}" y2="{}"/>')
            parts.append(line.format(name, place(one.low), place(one.high), y, y))
        parts.append(Markup('<circle class="{}" cx="{:.1f}" cy="{}" r="4"/>').format(name, place(one.value), y))
    svg = Markup('<svg class="intervals" viewBox="0 0 {} {}" aria-hidden="true">{}</svg>')
    return svg.format(WIDTH, HEIGHT, Markup("").join(parts))


def confusions(run: Run) -> list[Confusion]:
    """The confusion matrix of each model that has one."""
    found = [_confusion(name, mapping(mapping(run.evaluation.get(name)).get("confusion"))) for name in MODELS]
    return [one for one in found if one]


def _confusion(model: str, table: Mapping[str, Any]) -> Confusion | None:
    labels, counts = table.get("labels"), table.get("counts")
    if not isinstance(labels, list) or not isinstance(counts, list) or len(counts) != len(labels) or not labels:
        return None
    if any(not isinstance(row, list) or len(row) != len(labels) for row in counts):
        return None
    names = [str(label) for label in labels]
    cells = [[number(value) or 0.0 for value in row] for row in counts]
    rows = []
    for i, row in enumerate(cells):
        total = sum(row)
        shares = [value / total if total else 0.0 for value in row]
        shown = [Cell(count(row[j]), share(shares[j], 0), round(shares[j], 3), i == j) for j in range(len(row))]
        rows.append((names[i], shown, count(total)))
    wrong = [(cells[i][j], i, j) for i in range(len(names)) for j in range(len(names)) if i != j and cells[i][j]]
    wrong.sort(key=lambda item: (-item[0], item[1], item[2]))
    frequent = [(names[i], names[j], count(n)) for n, i, j in wrong[:12]]
    return Confusion(model, names, rows, frequent, len(names) <= MOST_CLASSES)


def speed(run: Run) -> dict[str, Any] | None:
    """Latency and throughput of the tuned model, with what was timed; None where it was not measured."""
    found = mapping(run.evaluation.get("speed"))
    rows = [
        (
            f"Batches of {count(one.get('rows'))}",
            [
                f"{decimal(one.get('p50_ms'), 1)} ms",
                f"{decimal(one.get('p95_ms'), 1)} ms",
                decimal(one.get("rows_per_second"), 1),
                count(one.get("timed_batches")),
            ],
        )
        for one in map(mapping, mapping(found.get("batches")).values())
    ]
    what = f"Timed, warm: {found.get('timed')}, on {found.get('device')} with {plural(found.get('threads'), 'thread')}."
    return {"rows": rows, "what": what} if rows else None


def calibration(run: Run) -> str:
    """What the fitted temperature did, as a sentence; empty without one."""
    found = mapping(run.evaluation.get("calibration"))
    before, after = mapping(found.get("before")), mapping(found.get("after"))
    if not before or not after:
        return ""
    return (
        f"Probabilities are calibrated with the temperature {decimal(found.get('temperature'), 2)}, fitted on the "
        f"{found.get('fitted_on')} rows. The calibration error of these {found.get('shown_on')} rows is "
        f"{decimal(before.get('ece'))} without it and {decimal(after.get('ece'))} with it; no answer changes."
    )


def class_rows(run: Run) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, of both models."""
    tables = {name: mapping(mapping(run.evaluation.get(name)).get("per_class")) for name in MODELS}
    labels = dict.fromkeys(label for table in tables.values() for label in table)
    rows = []
    for label in labels:
        own = {name: mapping(table.get(label)) for name, table in tables.items()}
        support = next((n for one in own.values() if (n := number(one.get("support"))) is not None), None)
        scores = [(key, [decimal(own[name].get(key)) for name in MODELS]) for key in ("precision", "recall", "f1")]
        rows.append({"label": label, "support": count(support), "scores": scores})
    return rows
