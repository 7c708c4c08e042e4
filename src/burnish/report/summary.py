"""The report in short, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish.report.facts import finding_counts, predicted_memory
from burnish.report.metrics import METRICS, difference, ordered, score
from burnish.report.numbers import DASH, count, decimal, number, p_value, size
from burnish.report.page import NAME
from burnish.report.read import Run, load_run, mapping
from burnish.report.retention import retention_sentence
from burnish.report.verdict import verdict

LABEL_WIDTH = 21
"""Of the names of most metrics, so that the values beside them do not cut them."""
STYLES = {"better": "bold green", "worse": "bold red", "mixed": "bold yellow"}


def print_summary(run_folder: Path, console: Console) -> None:
    """Print what came of a run: the verdict, base against tuned, and where its files are.

    Raises:
        UserError: There is no run in the folder.
    """
    run = load_run(Path(run_folder))
    outcome = verdict(run)
    console.print()
    console.print(Text(outcome.sentence, style=STYLES.get(outcome.tone, "bold")), highlight=False)
    for caveat in outcome.caveats:
        console.print(Text(caveat, style="dim"), highlight=False)
    forgotten = retention_sentence(run.evaluation)
    if forgotten:
        console.print(Text(f"{forgotten[0].upper()}{forgotten[1:]}."), highlight=False)
    scored = {name: one for name in ("base", "tuned") if (one := mapping(run.evaluation.get(name)))}
    if scored:
        console.print()
        console.print(metrics_table(scored, mapping(run.evaluation.get("comparison"))))
        if parts := mapping(run.evaluation.get("tasks")):
            console.print()
            console.print(tasks_table(parts))
        for told in (*calibration_line(run.evaluation), *speed_lines(run.evaluation)):
            console.print(Text(told, style="dim"), highlight=False)
    lines = _lines(run)
    if lines:
        console.print()
    for name, value in lines:
        line = Text(f"{name:<12}", style="dim").append(value, style="default not dim")
        console.print(line, highlight=False, soft_wrap=True)


def metrics_table(models: Mapping[str, Mapping[str, Any]], comparison: Mapping[str, Any] | None = None) -> Table:
    """Metrics with their 95 % intervals, one column for each model.

    Args:
        models: Each model's part of ``evaluation.json``, by the name of its column.
        comparison: The ``comparison`` of base and tuned, for columns of differences and p-values.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("metric", min_width=LABEL_WIDTH)
    pair = len(models) == 2 and comparison is not None
    for name in models:
        table.add_column(Text(name), justify="right", no_wrap=True)
        if not pair or name == list(models)[-1]:  # of two models the page has both; here the line would not hold them
            table.add_column(Text("95 % interval"), style="dim", no_wrap=True)
    if pair:
        table.add_column(Text("difference"), justify="right", no_wrap=True)
        table.add_column(Text("p"), justify="right", no_wrap=True)
    for metric in ordered(*models.values()):
        scores = [score(one, metric.name) for one in models.values()]
        cells = [text for one in scores for text in (one.text(metric), one.interval(metric))]
        if pair:
            del cells[1]
        if pair and comparison is not None:
            p = mapping(comparison.get(metric.name)).get("p_value")
            cells += [difference(comparison, metric, *scores)[0], p_value(p) if number(p) is not None else ""]
        label = metric.label if metric.name in METRICS else metric.name
        table.add_row(*(Text(cell) for cell in (label, *cells)))
    return table


def tasks_table(parts: Mapping[str, Any]) -> Table:
    """Each task by itself, a line for each: rows, and the first of its metrics, of one model or of base and tuned.

    Args:
        parts: The ``tasks`` of ``evaluation.json``, or the scores of one model by task.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("task", min_width=LABEL_WIDTH)
    pair = all("tuned" in mapping(part) for part in parts.values())
    for name in ("metric", *(("base", "tuned") if pair else ("model",))):
        table.add_column(name, justify="right" if name != "metric" else "left", no_wrap=True)
    table.add_column("95 % interval", style="dim", no_wrap=True)
    for end in ("difference",) if pair else ():
        table.add_column(end, justify="right", no_wrap=True)
    for name, part in parts.items():
        models = [mapping(part[key]) for key in ("base", "tuned")] if pair else [mapping(part)]
        metric = ordered(*models)[0]
        scores = [score(one, metric.name) for one in models]
        cells = [name, metric.label, *(one.text(metric) for one in scores), scores[-1].interval(metric)]
        if pair:
            cells.append(difference(mapping(part["comparison"]), metric, *scores)[0])
        table.add_row(*map(Text, cells))
    return table


def calibration_line(scored: Mapping[str, Any]) -> list[str]:
    """What a temperature does to the calibration, as a line; nothing without one."""
    found = mapping(scored.get("calibration"))
    before, after = mapping(found.get("before")), mapping(found.get("after"))
    if not before or not after:
        return []
    return [
        f"temperature {decimal(found.get('temperature'), 2)}, fitted on the {found.get('fitted_on')} rows: the "
        f"calibration error of these {found.get('shown_on')} rows is {decimal(before.get('ece'))} without it, "
        f"{decimal(after.get('ece'))} with it; no answer changes"
    ]


def speed_lines(scored: Mapping[str, Any]) -> list[str]:
    """Latency and throughput, a line for each batch size."""
    found = mapping(scored.get("speed"))
    lines = []
    for one in mapping(found.get("batches")).values():
        lines.append(
            f"batches of {count(one['rows'])}: p50 {decimal(one['p50_ms'], 1)} ms, p95 {decimal(one['p95_ms'], 1)} ms, "
            f"{decimal(one['rows_per_second'], 1)} rows/s ({count(one['timed_batches'])} timed)"
        )
    if lines:
        lines.append(f"timed, warm: {found.get('timed')}, on {found.get('device')} with {found.get('threads')} threads")
    return lines


def _lines(run: Run) -> list[tuple[str, str]]:
    """Where things are and what was noticed."""
    best = f", from step {count(run.best_step)} of {count(run.step)}" if run.best_step is not None else ""
    lines = [
        ("handed over", f"{run.path / 'final'}{best}" if run.handed_over else DASH),
        ("memory", _memory(run)),
        ("findings", finding_counts(run) or DASH),
        ("report", str(run.path / NAME) if (run.path / NAME).is_file() else DASH),
    ]
    return [line for line in lines if line[1] != DASH]


def _memory(run: Run) -> str:
    """The highest memory, beside what was predicted."""
    came, said = size(run.finished.get("peak_memory_bytes")), predicted_memory(run)
    return f"{came} at most" + (f", {said}" if said else "") if came != DASH else DASH
