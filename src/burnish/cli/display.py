"""What a person sees while a run goes on: bars in a terminal, plain lines in a log, JSON lines for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from burnish.core.events import (
    Advanced,
    Evaluated,
    Event,
    Finished,
    Measured,
    Noticed,
    Retained,
    Saved,
    Stage,
    Started,
    Stepped,
)
from burnish.core.files import finite
from burnish.core.findings import Finding
from burnish.core.processes import is_main

if TYPE_CHECKING:
    from burnish.train.run import RunResult

COLOURS = {"note": "cyan", "warning": "yellow", "stop": "red"}
PLAIN_EVERY_SECONDS = 10.0
WIDE = 100
WATCHED = ("loss.", "validation.", "gradients.")
"""Codes of the diagnosis beside a run."""


@contextmanager
def display(as_json: bool) -> Iterator[Callable[[Event], None]]:
    """The callback that shows a run in the way that suits where the output goes."""
    if not is_main():
        yield lambda event: None
        return
    if as_json:
        yield print_json
        return
    console = Console(stderr=True)
    if not console.is_terminal:
        yield PlainDisplay(console)
        return
    shown = LiveDisplay(console)
    with shown.progress:
        yield shown
        shown.close()


def print_json(event: Event) -> None:
    """One JSON object per event, on standard output."""
    line = {"event": type(event).__name__.lower(), **dataclasses.asdict(event)}
    print(json.dumps(finite(line), ensure_ascii=False), flush=True)


class PlainDisplay:
    """Lines for a log file: every stage, every evaluation, and a training line every ten seconds."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.total = 0
        self._told = float("-inf")

    def __call__(self, event: Event) -> None:
        for line in self.lines(event):
            self.console.print(line, highlight=False, soft_wrap=True)

    def lines(self, event: Event) -> list[str]:
        """What an event has to say; often nothing."""
        if isinstance(event, Stage):
            return [escape(event.name)]
        if isinstance(event, Noticed):
            return finding_lines(event.finding)
        if isinstance(event, Started):
            self.total = event.total_steps
            return [f"training: {event.total_steps} updates, {event.total_epochs:.2f} epochs"]
        if isinstance(event, Stepped):
            return self._step_lines(event)
        if isinstance(event, Evaluated):
            return [evaluation_line(event)]
        if isinstance(event, Retained):
            return [retention_line(event)]
        return ending_lines(event)

    def _step_lines(self, event: Stepped) -> list[str]:
        now = time.monotonic()
        if now - self._told < PLAIN_EVERY_SECONDS and event.step not in (1, self.total):
            return []
        self._told = now
        return [f"step {event.step}/{self.total}  epoch {event.epoch:.2f}  {step_numbers(event)}"]


class LiveDisplay(PlainDisplay):
    """One bar for what goes on now, with the time left and the numbers; what is done scrolls above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24 if console.width >= WIDE else 8),
            TextColumn("{task.fields[count]}"),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]{task.fields[numbers]}"),
            console=console,
        )
        self._task: Any = None
        self._name, self._began = "", 0.0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Stage):
            self._begin(event.name, event.total, 0)
        elif isinstance(event, Advanced):
            self._advance(event.done, "")
        elif isinstance(event, Started):
            self.total = event.total_steps
            self._begin("training", event.total_steps, event.step)
        elif isinstance(event, Stepped):
            self._advance(event.step, step_numbers(event))
        elif isinstance(event, Finished):
            self._end(f" to step {event.step}: {event.reason}")
        else:
            super().__call__(event)

    def close(self) -> None:
        """The last thing is done."""
        self._end()

    def _begin(self, name: str, total: int | None, done: int) -> None:
        self._end()
        self._name, self._began = name, time.monotonic()
        self._task = self.progress.add_task(escape(name), total=total, completed=done, count="", numbers="")

    def _advance(self, done: int, numbers: str) -> None:
        if self._task is not None:
            total = self.progress.tasks[-1].total
            count = f"{done:,.0f}/{total:,.0f}" if total else ""
            self.progress.update(self._task, completed=done, count=count, numbers=numbers)

    def _end(self, how: str = "") -> None:
        if self._task is None:
            return
        self.progress.remove_task(self._task)
        self._task = None
        minutes, seconds = divmod(round(time.monotonic() - self._began), 60)
        line = f"[green]✓[/green] {escape(self._name + how)} [dim]{minutes}:{seconds:02}[/dim]"
        self.console.print(line, highlight=False)


def step_numbers(event: Stepped) -> str:
    """Loss, with replay its two parts, gradient norm, learning rate and speed of one update."""
    m = event.metrics
    apart = (
        f" (task {m['loss.sft']:.3f}, replay {m['loss.replay']:.3f})" if {"loss.sft", "loss.replay"} <= m.keys() else ""
    )
    return (
        f"loss {m['loss']:.3f}{apart}  grad norm {m['grad_norm']:.2f}  lr {m['learning_rate']:.1e}  "
        f"{m['tokens_per_second']:,.0f} tokens/s"
    )


def evaluation_line(event: Evaluated) -> str:
    """The scores of an evaluation, marked when it is the best so far."""
    shown = "  ".join(f"{name} {value:.4f}" for name, value in event.metrics.items() if isinstance(value, float))
    return f"  validation at step {event.step}: {shown}" + ("  [green]best so far[/green]" if event.improved else "")


def retention_line(event: Retained) -> str:
    """How much is left of what the model knew, on some texts of each domain."""
    shown = "  ".join(f"{name} {value:.4f}" for name, value in event.metrics.items())
    return f"  general texts at step {event.step}: {shown}"


def ending_lines(event: Event) -> list[str]:
    """How the loop ended; a save needs no line of its own."""
    if isinstance(event, Finished):
        return [f"training ended at step {event.step}: {event.reason}"]
    assert isinstance(event, (Advanced, Saved, Stepped, Measured, Finished))
    return []


def finding_lines(finding: Finding) -> list[str]:
    """A finding in at most three lines, what the diagnosis says in one; its full text stands in the report."""
    colour = COLOURS[finding.severity]
    if finding.code.startswith(WATCHED):
        advice = f" [bold]→ {escape(finding.fix)}[/bold]" if finding.fix else ""
        return [f"  [{colour}]{escape(finding.where)}[/{colour}]: {escape(finding.what)}{advice}"]
    where = f" [dim]({escape(finding.where)})[/dim]" if finding.where else ""
    lines = [f"  [{colour}]{finding.severity}[/{colour}] {escape(finding.what)}{where}"]
    if finding.severity != "note" and finding.fix:
        lines.append(f"    fix: {escape(finding.fix)}")
    return lines


def show_result(result: RunResult, as_json: bool) -> int:
    """The end of a run: the summary for a person or one JSON object for a machine; returns the exit code."""
    if not is_main():
        return 130 if result.reason == "interrupted" else 0
    if as_json:
        print(json.dumps(finite({"event": "result", **result.to_json()}), ensure_ascii=False))
    else:
        from burnish.report.summary import print_summary

        print_summary(result.folder, Console(file=sys.stdout))
        if result.reason == "interrupted":
            print(f"\ninterrupted and saved; continue with:  burnish resume {result.folder}")
    return 130 if result.reason == "interrupted" else 0
