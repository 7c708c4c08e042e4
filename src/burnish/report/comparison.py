"""Two runs on the same rows, in short, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from burnish.report.metrics import metric_of
from burnish.report.numbers import decimal, p_equation, rows, signed

NEITHER = "neither"


def comparison_verdict(found: Mapping[str, Any]) -> str:
    """What came of it, in a sentence or two."""
    names = _names(found)
    differ = [m for m in found["metrics"] if m["significant"]]
    where = f"On the same {rows(found['rows'])} ({found['split']}, SHA-256 {found['rows_sha256'][:12]})"
    caveat = "" if found["same_prompts"] else " The prompts are worded differently; the rows and targets are the same."
    if not differ:
        return f"{where} there is no significant difference in any metric.{caveat}"
    better = {m["better"] for m in differ}
    told = ", ".join(metric_of(m["name"]).noun for m in differ)
    if len(better) == 1:
        return f"{where} {names[better.pop()]} is better: {told}.{caveat}"
    parts = [
        f"{names[which]} is better in {', '.join(metric_of(m['name']).noun for m in differ if m['better'] == which)}"
        for which in ("first", "second")
    ]
    return f"{where} {parts[0]}, and {parts[1]}.{caveat}"


def comparison_table(found: Mapping[str, Any]) -> Table:
    """Every metric of both runs, the difference with its interval or p-value, and which is better."""
    names = _names(found)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("metric", min_width=20)
    for which in ("first", "second"):
        table.add_column(Text(names[which]), justify="right", overflow="fold")
    table.add_column("difference", justify="right", no_wrap=True)
    table.add_column("95 % interval, p", style="dim", no_wrap=True)
    table.add_column("better", overflow="fold", min_width=len(NEITHER))
    if any(not row["better"] for row in found["metrics"]):
        table.caption = f"{NEITHER}: no significant difference"
        table.caption_justify = "left"
    for row in found["metrics"]:
        metric = metric_of(row["name"])
        evidence = p_equation(row["p_value"]) if "p_value" in row else _interval(row, metric.digits)
        better = names[row["better"]] if row["better"] else NEITHER
        cells = [metric.label, *(decimal(row[w], metric.digits) for w in ("first", "second"))]
        table.add_row(*map(Text, [*cells, signed(row["difference"], metric.digits), evidence, better]))
    return table


def _interval(row: Mapping[str, Any], digits: int) -> str:
    return f"{signed(row.get('low'), digits)} to {signed(row.get('high'), digits)}"


def _names(found: Mapping[str, Any]) -> dict[str, str]:
    names = {which: Path(found[which]).name or found[which] for which in ("first", "second")}
    return names if names["first"] != names["second"] else {which: found[which] for which in names}
