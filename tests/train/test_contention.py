"""A run that shares its cores says so once, with what would help."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from burnish.core.events import Event, Noticed, Stepped
from burnish.core.findings import Finding
from burnish.train.contention import WINDOW, Contention, Times, contended, times_now
from burnish.train.folder import RunFolder


@pytest.mark.parametrize(
    ("busy", "idle", "own", "taken"),
    [
        (39.0, 1.0, 24.0, 0.75),  # 15 of 40 seconds of two cores over 20 seconds, and 1 was free
        (40.0, 0.0, 36.0, None),  # 4 of 40: less than a quarter of a core
        (36.0, 4.0, 20.0, None),  # 0.2 cores were free: whoever took the rest was in nobody's way
        (20.0, 20.0, 20.0, None),
    ],
)
def test_what_others_took(busy: float, idle: float, own: float, taken: float | None) -> None:
    found = contended(Times(5.0, 100.0, 100.0, 7.0), Times(25.0, 100 + busy, 100 + idle, 7 + own), threads=2)
    assert (found and found.evidence["taken_by_others"]) == taken
    if found:
        assert "0.8 cores over 20 seconds" in found.what and "OMP_NUM_THREADS=1" in found.fix


def test_it_is_said_once(tmp_path: Path) -> None:
    """Readings every 5 seconds, both cores busy and one of them with others: told after 20 seconds, and not again."""

    def readings() -> Iterator[Times]:
        for number in range(100):
            yield Times(5.0 * number, 10.0 * number, 0.0, 5.0 * number)

    said: list[Finding] = []

    def listen(event: Event) -> None:
        if isinstance(event, Noticed):
            said.append(event.finding)

    following = readings()
    watch = Contention(RunFolder(tmp_path), [listen], threads=2, read=lambda: next(following))
    for step in range(int(WINDOW / 5)):
        watch(Stepped(step=step, epoch=0.0, metrics={}))
    assert not said
    for step in range(20):
        watch(Stepped(step=step, epoch=0.0, metrics={}))
    assert [finding.code for finding in said] == ["machine.contended"]
    assert [row["code"] for row in RunFolder(tmp_path).read_rows("findings.jsonl")] == ["machine.contended"]


def test_one_thread_has_nobody_to_wait_for(tmp_path: Path) -> None:
    watch = Contention(RunFolder(tmp_path), [], threads=1, read=lambda: pytest.fail("not looked at"))
    watch(Stepped(step=1, epoch=0.0, metrics={}))


def test_the_system_counts_upwards() -> None:
    first, second = times_now(), times_now()
    assert second.clock >= first.clock and second.busy >= first.busy >= second.own > 0
