"""How a comparison of methods looks in a terminal: while it goes on, and its tables at the end."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from burnish.cli.turns import bars
from burnish.compare import words
from burnish.compare.basis import NAMES
from burnish.compare.outcome import Outcome
from burnish.compare.race import Stand
from burnish.compare.results import Results, verdict
from burnish.compare.run import Listener
from burnish.compare.trials import Trial

DRAWN = 25
"""Columns of the drawn interval."""

WIDE = 150
"""Columns from which on no cell has to be broken; what is piped is written as wide."""


@contextmanager
def listening(console: Console, first: str = "sizing the methods") -> Iterator[Listener]:
    """The listener that shows a comparison: bars in a terminal, a line for each run elsewhere."""
    progress = bars(console)
    shown = Turns(progress, first)
    with progress:
        yield Listener(shown.begins, shown.moves, shown.ends, shown.skips)


class Turns:
    """The bars, and the line that stays of every run."""

    def __init__(self, progress: Progress, first: str) -> None:
        self.progress, self.console = progress, progress.console
        self.whole = progress.add_task(first, total=None, count="")
        self.run = progress.add_task("", total=None, count="", visible=False)
        self.began = time.monotonic()

    def begins(self, number: int, total: int, trial: Trial) -> None:
        """A run begins."""
        self.began = time.monotonic()
        count = f"run {number + 1} of {total}"
        self.progress.update(self.whole, description="comparing", completed=number, total=total, count=count)
        self.progress.reset(self.run, description=_named(trial), total=None, count="starting", visible=True)

    def moves(self, told: Mapping[str, Any]) -> None:
        """A stage or an update."""
        if "step" in told:
            count = f"update {told['step']} of {told['total']}"
            self.progress.update(self.run, completed=told["step"], total=told["total"], count=count)
        elif "stage" in told:
            self.progress.update(self.run, count=escape(told["stage"]))

    def ends(self, trial: Trial, result: Outcome | Stand | str) -> None:
        """A run has ended; its line stays."""
        self.progress.update(self.run, visible=False)
        seconds = f"[dim]{time.monotonic() - self.began:.0f} s[/dim]"
        if isinstance(result, str):
            line = f"[red]✗[/red] {_named(trial)}: [red]{escape(result)}[/red] {seconds}"
        elif isinstance(result, Stand):
            line = f"[green]✓[/green] {_named(trial)}: {result.step:,} of {result.total:,} updates {seconds}"
        else:
            speed = f"{result.facts['tokens_per_second']:,.0f} tokens/s, peak {words.size(result.facts['peak_bytes'])}"
            line = f"[green]✓[/green] {_named(trial)}: {speed} {seconds}"
        self.console.print(line, highlight=False, soft_wrap=True)

    def skips(self, trial: Trial) -> None:
        """A run was done before."""
        self.progress.update(self.run, visible=False)
        self.console.print(f"[dim]· {_named(trial)}: done before[/dim]", highlight=False, soft_wrap=True)


def _named(trial: Trial) -> str:
    return f"{escape(trial.variant.label)}, seed {trial.seed}"


def show(results: Results, console: Console) -> None:
    """The verdict, quality, cost, and what has no numbers."""
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDE, highlight=False)
    console.print()
    for number, sentence in enumerate(verdict(results)):
        console.print(Text(sentence, style="bold green" if number == 0 else ""), soft_wrap=True)
    console.print(Text(words.about(results), style="dim"), soft_wrap=True)
    if results.measured:
        console.print()
        console.print(Text(words.title(results), style="bold"))
        console.print(quality_table(results))
        console.print()
        console.print(Text("cost: medians over the seeds", style="bold"))
        console.print(cost_table(results))
        tokens = results.measured[0].latency.get("tokens")
        if tokens:
            told = f"forward: one row of {tokens} tokens, in brackets against the base without adapters"
            console.print(Text(told, style="dim"), soft_wrap=True)
    for line in results.lines:
        if line.why_not:
            console.print(Text(f"{line.label}: ", style="red").append(line.why_not, style="default"), soft_wrap=True)


def quality_table(results: Results) -> Table:
    """Every variant with its interval, drawn and written, and how it stands to the best."""
    table = _table()
    table.add_column("method", no_wrap=True)
    table.add_column(NAMES[results.metric], justify="right")
    table.add_column("95 % interval", style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("each seed", style="dim")
    table.add_column("against the best")
    low, high = limits(results)
    for line in results.measured:
        one = line.quality[results.metric]
        best = line is results.measured[0]
        pair = results.against_best(line.label)
        style = "green" if best else "red" if pair and pair.significant else ""
        table.add_row(
            Text(line.label, style="bold" if best else ""),
            words.quality(one),
            words.interval(one),
            drawn(one.low, one.value, one.high, low, high),
            " ".join(f"{value:.3f}" for value in one.seeds),
            Text(words.against_best(results, line), style=style),
        )
    if results.base:
        one = results.base
        table.add_row(
            Text("untouched base", style="dim"),
            words.quality(one),
            words.interval(one),
            drawn(one.low, one.value, one.high, low, high),
        )
    if results.majority is not None:
        table.add_row(Text("most frequent class", style="dim"), f"{results.majority:.3f}")
    return table


def cost_table(results: Results) -> Table:
    """Parameters, memory, speed, latency and size of every variant."""
    table = _table()
    table.add_column("method", no_wrap=True)
    sized = any(line.sized for line in results.measured)
    if sized:
        table.add_column("size")
    names = ("trained", "share", "peak memory", "tokens/s", "training", "forward, beside", "forward, merged", "file")
    for name in names:
        table.add_column(name, justify="right")
    for line in results.measured:
        facts = line.facts
        table.add_row(
            line.label,
            *((line.sized,) if sized else ()),
            f"{facts['trainable']:,.0f}",
            f"{facts['trainable'] / max(1, results.parameters):.2%}",
            words.size(facts["peak_bytes"]),
            f"{facts['tokens_per_second']:,.0f}",
            f"{facts['training_seconds']:.1f} s",
            words.forward(line, "unmerged"),
            words.forward(line, "merged"),
            words.size(facts["checkpoint_bytes"]),
        )
    return table


def limits(results: Results) -> tuple[float, float]:
    """The ends of the drawn axis: all intervals, and the untouched base's where there is one."""
    found = [line.quality[results.metric] for line in results.measured] + ([results.base] if results.base else [])
    return min(one.low for one in found), max(one.high for one in found)


def drawn(low: float, value: float, high: float, first: float, last: float) -> Text:
    """An interval as a line with its value as a point, such as ``   ├──●──┤   ``."""
    span = (last - first) or 1.0
    a, v, b = (round((x - first) / span * (DRAWN - 1)) for x in (low, value, high))
    cells = [" "] * DRAWN
    cells[a : b + 1] = "─" * (b - a + 1)
    cells[a], cells[b] = "├", "┤"
    cells[v] = "●"
    return Text("".join(cells))


def _table() -> Table:
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
