"""Data of many files under real processes: each file is read by one of them, and whoever goes on reads none."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from burnish.core.config import build
from burnish.core.files import read_lines
from burnish.train import run
from burnish.train.config import RunConfig
from tests.distributed.common import carry, job, same
from tests.support.caches import own_cache
from tests.support.recipes import sentiment_rows, write_rows

FILES = 7


@pytest.fixture
def data(tmp_path: Path) -> dict[str, object]:
    """60 rows in seven files of 3 to 15."""
    (tmp_path / "shards").mkdir()
    rows, start = sentiment_rows(60), 0
    for number, count in enumerate((15, 3, 9, 6, 12, 5, 10)):
        write_rows(tmp_path / "shards" / f"part-{number}.jsonl", rows[start : start + count])
        start += count
    return {"train": str(tmp_path / "shards"), "split": {"validation": 12, "test": 12}}


def test_files_are_dealt_out_the_order_stays_and_resuming_reads_none(
    tmp_path: Path, data: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of 8 over 36 rows are five updates: two processes make three of them, and four go on with the rest.

    The oracle for losses, scores and weights is one process, which reads all files for itself. Every opening of a data
    file is noted by a hook of the interpreter: of the two processes one has four files and the other three, and of the
    four none has any.
    """
    cache = {"BURNISH_CACHE": str(own_cache(tmp_path / "shared"))}
    monkeypatch.setenv("BURNISH_CACHE", str(own_cache(tmp_path / "alone")))
    sections = {"data": data, "train": {"max_steps": None, "num_epochs": 1.0}}
    run.start_run(build(RunConfig, job(tmp_path, "one", **sections)))
    cut, log = job(tmp_path, "cut", "ddp", **sections), str(tmp_path / "opened.jsonl")
    carry(tmp_path, 2, [{"run": cut, "stop": 3, "opened": log}], **cache)
    where = tmp_path / "runs" / "cut"
    carry(tmp_path, 4, [{"resume": str(where), "opened": log}], **cache)
    readers = defaultdict(set)
    for processes, rank, path in map(json.loads, Path(log).read_text().splitlines()):
        readers[Path(path).name].add((processes, rank))
    assert len(readers) == FILES and all(len(who) == 1 for who in readers.values())
    assert sorted(Counter(one for who in readers.values() for one in who).items()) in (
        [((2, 0), 4), ((2, 1), 3)],
        [((2, 0), 3), ((2, 1), 4)],
    )
    same(where, tmp_path / "runs" / "one")
    assert [finding["code"] for finding in read_lines(where / "findings.jsonl")].count("data.read-dealt") == 1
