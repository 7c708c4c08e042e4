"""What a person sees while contenders take turns: one bar over all runs and one for the run that goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from burnish.benchmarks.contenders import Contender
from burnish.benchmarks.process import Result
from burnish.benchmarks.runner import Listener, Measured
from burnish.benchmarks.table import WHAT, rows

WIDE = 160
"""Columns from which on no cell of the comparison has to be broken."""


def bars(console: Console) -> Progress:
    """Bars for runs that take turns, each with a `count` beside it; silent where the output is no terminal."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.is_terminal,
    )


@contextmanager
def turns_display(console: Console) -> Iterator[Listener]:
    """The listener that shows a benchmark: bars in a terminal, a line per run elsewhere."""
    progress = bars(console)
    shown = Turns(progress)
    with progress:
        yield Listener(shown.begins, shown.moves, shown.ends)


class Turns:
    """The bars, and the line that stays of every run."""

    def __init__(self, progress: Progress) -> None:
        self.progress, self.console = progress, progress.console
        self.whole = progress.add_task("preparing rows and model", total=None, count="")
        self.run = progress.add_task("", total=None, count="", visible=False)
        self.began = time.monotonic()

    def begins(self, number: int, total: int, turn: int, contender: Contender) -> None:
        """A run begins."""
        self.began = time.monotonic()
        count = f"run {number + 1} of {total}"
        self.progress.update(self.whole, description=f"round {turn + 1}", completed=number, total=total, count=count)
        self.progress.reset(self.run, description=escape(contender.title), total=None, count="starting", visible=True)

    def moves(self, done: int, total: int) -> None:
        """An update is done."""
        self.progress.update(self.run, completed=done, total=total, count=f"update {done} of {total}")

    def ends(self, turn: int, contender: Contender, result: Result) -> None:
        """A run has ended; its line stays."""
        self.progress.update(self.run, visible=False)
        seconds = f"[dim]{time.monotonic() - self.began:.0f} s[/dim]"
        if "failed" in result:
            mark, said = "[red]✗[/red]", f"[red]did not run:[/red] {escape(result['failed'])}"
        else:
            mark, said = "[green]✓[/green]", f"{result['tokens_per_second']:,.0f} tokens/s"
        line = f"{mark} round {turn + 1}  {escape(contender.title)}: {said} {seconds}"
        self.console.print(line, highlight=False, soft_wrap=True)


def print_table(measured: Measured, console: Console) -> None:
    """The comparison, what is worth knowing about its contenders, and on what it was made."""
    plan, facts = measured.plan, measured.to_json()
    lines = measured.lines()
    titles = {contender.name: contender.title for contender in plan.contenders}
    head, *body = rows(lines, titles)
    table = Table(*head, box=None, title=escape(plan.job.title), title_justify="left", caption=WHAT)
    table.caption_justify = "left"
    for column in table.columns[1:]:
        column.justify, column.no_wrap = "right", console.width >= WIDE
    aside = [cells for cells in body if len(cells) < len(head)]
    for cells in body:
        if len(cells) == len(head):
            table.add_row(*map(escape, cells))
    console.print()
    console.print(table)
    for title, why in aside:
        console.print(f"{escape(title)}: [red]{escape(why)}[/red]", highlight=False, soft_wrap=True)
    shown = {line.name for line in lines if not line.why_not}
    for contender in plan.contenders:
        if contender.note and contender.name in shown:
            console.print(f"[dim]note: {escape(contender.note)}[/dim]", highlight=False, soft_wrap=True)
    machine = facts["machine"]
    console.print(f"\nmachine     {escape(machine['processor'])}, {machine['cores']} cores", highlight=False)
