"""Rows prepared by several processes: each file is read by one, and what comes of it is what one process makes.

The processes are threads here, which tell one another the same things as processes do; `tests/distributed` has real
ones.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from burnish.core.errors import UserError
from burnish.data import digests
from burnish.data.config import DataConfig
from burnish.data.dealt import prepare_together
from burnish.data.labelled import Classes
from burnish.data.prepare import Prepared, prepare
from burnish.data.rows import Row
from burnish.data.sources import DataFile
from burnish.data.table import ARRAYS
from burnish.data.tally import SAMPLE, Tally
from burnish.data.tasks import ClassTask, Task
from tests.data.chats import write_jsonl
from tests.support.crews import Threads, crewed
from tests.support.tiny import tiny_tokenizer

T = TypeVar("T")
WORDS = ("the", "cat", "dog", "sat", "ran", "on", "a", "mat", "big", "small", "red", "blue", "one", "two", "three")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often each thread reads each file, for its rows or for its hash."""
    seen: Counter[tuple[str, str]] = Counter()
    rows, sha256 = DataFile.rows, digests.sha256

    def read(self: DataFile, found: Any) -> Iterator[Row]:
        seen[self.path.name, threading.current_thread().name] += 1
        return rows(self, found)

    def hashed(path: Path) -> str:
        seen[path.name, threading.current_thread().name] += 1
        return sha256(path)

    monkeypatch.setattr(DataFile, "rows", read)
    monkeypatch.setattr(digests, "sha256", hashed)
    return seen


def shards(folder: Path, count: int, labelled: bool = False) -> dict[str, Any]:
    """Files of many sizes, with duplicates across them, rows that are dropped, and held-out rows of their own."""
    (folder / "shards").mkdir(exist_ok=True)
    draw = np.random.default_rng(3)
    for number in range(count):
        rows: list[Any] = []
        for i in range(int(draw.integers(5, 40))):
            text = " ".join(draw.choice(WORDS, int(draw.integers(2, 9))))
            rows.append({"text": text, "label": WORDS[i % 3]} if labelled else {"prompt": text, "completion": f" {i}"})
        if number and not labelled:
            rows += [{"prompt": "the cat", "completion": " one"}, {"prompt": "a dog", "completion": ""}]
        write_jsonl(folder / "shards" / f"part-{number:03}.jsonl", rows)
    write_jsonl(folder / "more.jsonl", rows[:4])
    return {"train": [str(folder / "shards"), str(folder / "more.jsonl")], "split": {"validation": 9, "test": 12}}


def same(found: Prepared, wanted: Prepared) -> None:
    """Tables to the bit, with the names of their rows; held-out and training examples, summary and findings."""
    for split in ("train", "validation", "test"):
        ours, theirs = found.table(split), wanted.table(split)
        for name in ARRAYS:
            assert np.array_equal(getattr(ours, name), getattr(theirs, name)), (split, name)
        assert list(ours.ids) == list(theirs.ids) and ours.ids.files == theirs.ids.files
        assert list(found.examples[split]) == list(wanted.examples[split])
    assert json.dumps(found.summary) == json.dumps(wanted.summary)
    own = [f for f in found.findings if f.code != "data.from-cache"]
    assert own == [f for f in wanted.findings if f.code != "data.from-cache"]


def both(config: DataConfig, crew: Threads, task: Task | None = None) -> tuple[list[str], Prepared]:
    """The notes and the rows of one process."""
    tokenizer = tiny_tokenizer()
    notes = prepare_together(config, tokenizer, "causal", 0, crew, task=task, chunk=7)
    return [note.code for note in notes], prepare(config, tokenizer, "causal", 0, task=task)


@pytest.mark.parametrize("labelled", [False, True])
@pytest.mark.parametrize("size", [2, 4])
def test_each_file_is_read_by_one_process_and_nothing_else_shows(
    tmp_path: Path, readers: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, size: int, labelled: bool
) -> None:
    """Nine files of 5 to 41 rows. The oracle is one process, which reads all of them, without a cache.

    Each file is opened four times, by one process: for its hash, to count, to hash its rows, and to render them.
    """
    config = DataConfig.model_validate(shards(tmp_path, 8, labelled))
    task = ClassTask(Classes()) if labelled else None
    with monkeypatch.context() as alone:
        alone.setenv("BURNISH_CACHE", str(tmp_path / "other"))
        wanted = prepare(config, tiny_tokenizer(), "causal", 0, task=task)
        expected = list(wanted.examples["train"])
    assert expected
    readers.clear()
    found = crewed(size, lambda crew: both(config, crew, task))
    assert set(readers.values()) == {4} and len(readers) == 9
    taken = Counter(reader for _, reader in readers)
    assert len(taken) == size and max(taken.values()) - min(taken.values()) <= 1
    for notes, prepared in found:
        assert notes == ["data.read-dealt"]
        same(prepared, wanted)


def test_going_on_opens_no_file(
    tmp_path: Path, readers: Counter[tuple[str, str]], monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """The tables are there, and the hashes of files that were at rest are written down: on 2, 4 and 1 processes.

    A process that starts anew knows nothing, as after ``_KNOWN.clear()``. A file that is changed is read again.
    """
    config = DataConfig.model_validate(shards(tmp_path, 8))
    monkeypatch.setattr(digests, "_REST", 0)
    first = crewed(2, lambda crew: both(config, crew))[0][1]
    for size in (2, 4, 1):
        readers.clear()
        digests._KNOWN.clear()
        digests._READ.clear()
        for notes, prepared in crewed(size, lambda crew: both(config, crew)):
            assert notes == []
            assert prepared.train.content_hash() == first.train.content_hash()
        assert not readers
    changed = tmp_path / "shards" / "part-003.jsonl"
    changed.write_text(changed.read_text().replace("cat", "dog"))
    crewed(2, lambda crew: both(config, crew))
    assert len(readers) == 9 and {times for (name, _), times in readers.items() if name != changed.name} == {3}


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path) -> None:
    """Its times may not tell a second change from the first: its hash is used, and not written down."""
    path = write_jsonl(tmp_path / "new.jsonl", [{"text": "a"}])
    before = digests.digest(path)
    assert str(path) not in digests._KNOWN
    path.write_text('{"text": "b"}\n')
    assert digests.digest(path) != before


def test_a_damaged_table_is_found_by_the_process_that_checks_it(tmp_path: Path, own_cache: Path) -> None:
    config = DataConfig.model_validate(shards(tmp_path, 4))
    first = crewed(2, lambda crew: both(config, crew))[0][1].summary
    (folder,) = (p for p in (own_cache / "rows").iterdir() if p.is_dir())
    data = bytearray((folder / "train.input_ids").read_bytes())
    data[5] ^= 1
    (folder / "train.input_ids").write_bytes(bytes(data))
    for notes, prepared in crewed(2, lambda crew: both(config, crew)):
        assert notes == ["data.cache-damaged", "data.read-dealt"] and prepared.summary == first


def test_wrong_rows_of_all_files_are_refused_at_once_in_all_processes(tmp_path: Path) -> None:
    values = shards(tmp_path, 6)
    for name in ("part-001", "part-004"):
        with (tmp_path / "shards" / f"{name}.jsonl").open("a") as file:
            file.write("[1]\n")
    with pytest.raises(UserError, match="2 rows are wrong"):
        crewed(3, lambda crew: both(DataConfig.model_validate(values), crew))
    (tmp_path / "shards" / "part-002.jsonl").write_bytes(b"\xff\xfe\xff" * 9)
    with pytest.raises(UserError):
        crewed(3, lambda crew: both(DataConfig.model_validate(values), crew))


CASES: dict[str, dict[str, Any]] = {
    "fewer files": {"train": "shards/part-000.jsonl"},
    "`limit`": {"train": {"path": "shards", "limit": 20}},
}


@pytest.mark.parametrize("why", CASES)
def test_what_cannot_be_dealt_out_is_read_by_all_and_said(tmp_path: Path, why: str) -> None:
    shards(tmp_path, 4)
    config = DataConfig.model_validate(CASES[why])
    notes = crewed(2, lambda crew: prepare_together(config, tiny_tokenizer(), "causal", 0, crew, tmp_path))
    assert [[note.code for note in found] for found in notes] == [["data.read-by-all"]] * 2 and why in notes[0][0].why


def test_processes_without_a_shared_folder_read_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_cache: Path
) -> None:
    """As on machines with a disk each: what the main process writes is not there for the other."""
    config = DataConfig.model_validate(shards(tmp_path, 4))
    is_dir = Path.is_dir

    def seen(path: Path) -> bool:
        return is_dir(path) and not (threading.current_thread().name == "1" and path.is_relative_to(own_cache))

    monkeypatch.setattr(Path, "is_dir", seen)
    (first, _), (second, _) = crewed(2, lambda crew: both(config, crew))
    assert first == second == ["data.read-by-all"]


def test_one_process_prepares_as_before(tmp_path: Path, own_cache: Path) -> None:
    config = DataConfig.model_validate(shards(tmp_path, 4))
    assert crewed(1, lambda crew: both(config, crew))[0][0] == [] and not own_cache.exists()


def test_tallies_of_parts_are_that_of_the_whole() -> None:
    """1,000 rows in one tally, and in five that are put together in another order: the same 400 rows, in order."""
    from burnish.data.example import Example
    from burnish.data.render import Rendered

    rows = [(Example(f"f:{i}", text=f"{i}"), Rendered([i], [True], [], [], 1 + i % 2)) for i in range(1000)]
    whole, parts = Tally(), [Tally() for _ in range(5)]
    for number, (example, row) in enumerate(rows):
        whole.add(example, row, number)
        parts[number // 200].add(example, row, number)
    joined = Tally()
    for place in (3, 0, 4, 2, 1):
        parts[place].keep(d.draw for part in parts for d in part.drawn)
        joined.extend(parts[place])
    assert joined.sample == whole.sample and len(whole.sample) == SAMPLE
    assert (joined.rows, joined.truncated) == (whole.rows, whole.truncated)
    assert [int(e.text) for e, _ in whole.sample] == sorted(int(e.text) for e, _ in whole.sample)
