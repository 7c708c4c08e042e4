"""Rows are streamed: no border of a chunk shows, of a training row only its tokens stay, and caches are true."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from burnish.core.errors import UserError
from burnish.data import cache, decode, tokens
from burnish.data.config import DataConfig
from burnish.data.example import Example
from burnish.data.formats import Converted
from burnish.data.keys import KeyBook
from burnish.data.names import RowNames
from burnish.data.prepare import Prepared, prepare
from burnish.data.select import Selection
from burnish.data.streams import Opened, Reread, some_of
from burnish.data.table import ARRAYS
from burnish.data.tally import SAMPLE, SLACK
from burnish.data.writer import TableWriter
from tests.data import frozen
from tests.data.chats import CHATML, tokenizer, write_jsonl
from tests.data.test_frozen import FROZEN
from tests.support.tiny import tiny_tokenizer

PAIRS = [{"prompt": f"Q{i}:", "completion": f" answer {i}"} for i in range(40)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "rows"


def prepared(tmp_path: Path, rows: list[Any] = PAIRS, **options: Any) -> Prepared:
    """Everything on the disk, five rows at a time."""
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = DataConfig.model_validate({"train": str(path), "split": {"validation": 6}, **options})
    return prepare(config, tiny_tokenizer(), "causal", 0, chunk=5, in_memory=0)


def codes(result: Prepared) -> list[str]:
    return [f.code for f in result.findings]


@pytest.mark.parametrize("name", frozen.CASES)
def test_chunks_disk_and_cache_change_nothing(tmp_path: Path, name: str) -> None:
    """Seven rows at a time, tables on the disk, and once more from the cache: the values of the code that held all."""
    first = frozen.prepared(name, tmp_path, chunk=7, in_memory=0)
    assert json.loads(json.dumps(frozen.record(first, tmp_path))) == FROZEN[name]
    if name in {"many", "leaks-kept"}:  # a source with a limit is read anew
        return
    again = frozen.prepared(name, tmp_path, chunk=7, in_memory=0)
    assert again.findings.pop(0).code == "data.from-cache"
    assert again.findings == first.findings and again.summary["steps"] == first.summary["steps"]
    assert json.loads(json.dumps(frozen.record(again, tmp_path))) == FROZEN[name]


def test_words_at_borders_that_are_forgotten_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_KNOWN_SEAMS", 3)
    assert json.loads(json.dumps(frozen.record(frozen.prepared("words", tmp_path), tmp_path))) == FROZEN["words"]


@pytest.mark.parametrize("threads", ["true", "false"])
def test_threads_of_the_tokenizer_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: str) -> None:
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", threads)
    assert json.loads(json.dumps(frozen.record(frozen.prepared("jsonl", tmp_path), tmp_path))) == FROZEN["jsonl"]


def examples_alive() -> int:
    return sum(type(one) is Example for one in gc.get_objects())


def test_examples_are_not_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 2,000 rows, at most a chunk's and the sample's examples are alive at any moment, and in the end none is.

    A chunk is 50 rows; the next one is made while the one before is still there, and its held-out rows are copied
    without their columns. The sample of each of the three splits is at most 440. All that would be 2,000.
    """
    alive: list[int] = []
    append = TableWriter.append

    def counted(self: TableWriter, *args: Any) -> None:
        alive.append(examples_alive())
        append(self, *args)

    monkeypatch.setattr(TableWriter, "append", counted)
    rows = [{"prompt": f"Q{i}:", "completion": f" {i}"} for i in range(2000)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = DataConfig.model_validate({"train": str(path), "split": {"validation": 100}})
    gc.collect()  # what other tests have left behind
    before = examples_alive()
    result = prepare(config, tiny_tokenizer(), "causal", 0, chunk=50, in_memory=0)
    assert max(alive) - before <= 3 * 50 + SAMPLE + SLACK + 100
    gc.collect()
    assert examples_alive() - before == 0 and len(result.validation) == len(result.examples["validation"]) == 100
    assert all(not e.fields for e in result.examples["validation"])
    assert len(result.examples["train"]) == 1900


def test_what_is_kept_of_a_row_is_small() -> None:
    """Two hashes of 16 bytes, a file of 4, a line of 4, and a value's code of 4: 44 bytes; a label's code takes 4."""
    for labelled in (False, True):
        book = KeyBook(10, "label", label=(lambda e: e.label) if labelled else None)
        book.add([Example(f"f:{i}", text=f"{i}", fields={"label": i}) for i in range(1, 9)])
        arrays = (book.rows, book.prompts, book.file, book.line, book.codes, book.label_codes)
        assert sum(a.itemsize * a[0].size for a in arrays if len(a)) == (48 if labelled else 44)
        assert len(book.finish()) == 8


def test_training_examples_are_read_again(tmp_path: Path) -> None:
    """By place, from behind, and in part, each with the name that the table gives it."""
    result = prepared(tmp_path)
    train = result.examples["train"]
    assert [e.id for e in train] == list(result.train.ids)
    assert train[3].id == result.train.ids[3] and train[-1].id == result.train.ids[33]
    assert [e.id for e in train[4:9]] == list(result.train.ids[4:9])
    with pytest.raises(IndexError):
        train[34]


def test_tables_are_mapped_and_of_one_type(tmp_path: Path) -> None:
    on_disk = prepared(tmp_path).train
    assert isinstance(on_disk.input_ids.base, np.memmap)
    config = DataConfig.model_validate({"train": str(tmp_path / "rows.jsonl"), "split": {"validation": 6}})
    in_memory = prepare(config, tiny_tokenizer(), "causal", 0, chunk=5).train
    for name in ARRAYS:
        ours, theirs = getattr(on_disk, name), getattr(in_memory, name)
        assert ours.dtype == theirs.dtype and np.array_equal(ours, theirs), name
    assert on_disk.ids == in_memory.ids


def test_small_sets_leave_nothing_on_the_disk(tmp_path: Path, own_cache: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", PAIRS)
    prepare(DataConfig.model_validate({"train": str(tmp_path / "rows.jsonl")}), tiny_tokenizer(), "causal", 0)
    assert not own_cache.exists()


def flip_a_token(folder: Path) -> None:
    path = folder / "train.input_ids"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    path.write_bytes(bytes(data))


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a token": flip_a_token,
    "a file is gone": lambda folder: (folder / "train.trained").unlink(),
    "a file is cut": lambda folder: os.truncate(folder / "validation.offsets", 8),
    "the record": lambda folder: (folder / "burnish.json").write_text('{"sha256": '),
    "the summary": lambda folder: (folder / "prepared.json").write_text("{}"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_cache_is_made_again(tmp_path: Path, own_cache: Path, name: str) -> None:
    first = prepared(tmp_path)
    whole = first.train.content_hash()  # its pages are mapped from the file that is damaged now
    (folder,) = own_cache.iterdir()
    DAMAGES[name](folder)
    again = prepared(tmp_path)
    assert codes(again)[0] == "data.cache-damaged"
    assert again.summary == first.summary
    third = prepared(tmp_path)
    assert codes(third)[0] == "data.from-cache" and third.train.content_hash() == whole
    assert [e.key for e in third.examples["validation"]] == [e.key for e in first.examples["validation"]]


def key(tmp_path: Path, made: PreTrainedTokenizerFast, seed: int = 0, rows: list[Any] = PAIRS, **options: Any) -> Any:
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = DataConfig.model_validate({"train": str(path), **options})
    return cache.key_of(config, made, "causal", seed, Opened.of(config, None))


def test_the_key_sees_all_that_decides_about_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows, seed, settings, tokenizer, chat template, special tokens and code; and without a change it stays."""
    plain = tokenizer(CHATML)
    base = key(tmp_path, plain)
    assert base == key(tmp_path, tokenizer(CHATML))
    others = [
        key(tmp_path, plain, rows=PAIRS[1:]),
        key(tmp_path, plain, seed=1),
        key(tmp_path, plain, render={"max_length": 64}),
        key(tmp_path, plain, split={"validation": 3}),
        key(tmp_path, tokenizer(CHATML, kind="words")),
        key(tmp_path, tokenizer(CHATML + " ")),
        key(tmp_path, tokenizer(CHATML, eos_token="<|im_end|>")),
        key(tmp_path, tokenizer(CHATML, bos=True)),
    ]
    monkeypatch.setattr(cache, "_code", lambda: "other code")
    others.append(key(tmp_path, plain))
    assert len({base, *others}) == 10
    assert key(tmp_path, plain, train={"path": str(tmp_path / "rows.jsonl"), "limit": 5}) is None


def test_values_that_json_cannot_hold_are_not_kept(tmp_path: Path, own_cache: Path) -> None:
    """Turns with a date, as Parquet can have them: JSON has none, so such a set is prepared again."""
    said = [{"role": "user", "at": date(2024, 5, 1)}, {"role": "assistant", "content": "b", "at": date(2024, 5, 2)}]
    rows = [{"messages": [{**said[0], "content": f"a{i}"}, said[1]]} for i in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    config = DataConfig.model_validate({"train": str(tmp_path / "rows.parquet"), "split": {"validation": 3}})
    for _ in range(2):
        result = prepare(config, tokenizer(CHATML), "causal", 0, in_memory=0)
        assert "data.from-cache" not in codes(result) and len(result.train) == 9
    assert not list(own_cache.glob("*"))


def test_the_set_that_was_used_longest_ago_goes(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "KEPT", 2)
    for place, length in enumerate((30, 40, 50)):
        prepared(tmp_path, render={"max_length": length})
        for folder in own_cache.iterdir():
            os.utime(folder / "burnish.json", (place, place)) if place < 2 else None
    assert len(list(own_cache.iterdir())) == 2


def test_bad_rows_of_all_chunks_are_listed(tmp_path: Path) -> None:
    """Lines that are no JSON, and rows that their format refuses, all in one refusal."""
    rows: list[Any] = list(PAIRS)
    rows[2] = {"prompt": [], "completion": "x"}
    rows[17] = {"prompt": "x", "completion": {}}
    rows[30] = [1]
    with pytest.raises(UserError, match="3 rows are wrong") as caught:
        prepared(tmp_path, rows)
    assert all(f"rows.jsonl:{line}" in caught.value.what for line in (3, 18, 31))


def test_many_bad_rows_are_counted_and_not_held(tmp_path: Path) -> None:
    rows = [{"prompt": i, "completion": []} for i in range(500)]
    with pytest.raises(UserError, match="500 rows are wrong") as caught:
        prepared(tmp_path, rows)
    assert "and 480 more" in caught.value.what and "500 times" in caught.value.what


def test_rows_that_cannot_be_rendered_are_listed_from_all_chunks(tmp_path: Path) -> None:
    rows = [{"prompt": "x" * (90 if i % 10 == 3 else 1), "completion": f" {i}"} for i in range(40)]
    with pytest.raises(UserError, match="4 rows are wrong") as caught:
        prepared(tmp_path, rows, render={"max_length": 30, "on_too_long": "error"})
    assert "when they were rendered" in caught.value.what


def test_a_disk_that_is_full_names_the_cache(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="No space left") as caught:
        prepared(tmp_path)
    assert "BURNISH_CACHE" in caught.value.fix
    assert not list(own_cache.iterdir()), "nothing half-written stays"


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = Selection.choose

    def late(self: Selection) -> Any:
        with (tmp_path / "rows.jsonl").open("a") as file:
            file.write(json.dumps({"prompt": "late", "completion": " row"}) + "\n")
        return choose(self)

    monkeypatch.setattr(Selection, "choose", late)
    with pytest.raises(UserError, match="changed while it was read"):
        prepared(tmp_path)


TEXT = st.text(st.sampled_from("ab\n\r\u2028ä中😀"), max_size=60)


@settings(max_examples=150, deadline=None)
@given(TEXT, st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=3)), max_size=3), st.data())
def test_blocks_decode_as_the_whole(text: str, damages: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """Oracle: the whole file decoded at once. Blocks of 16 bytes, damaged bytes, encodings of all widths."""
    encoding = data.draw(
        st.sampled_from(["utf-8", "utf-16-le", "utf-16-be", "utf-32-le", "cp932", "latin-1", "iso2022_jp"])
    )
    content = bytearray(text.encode(encoding, "replace"))
    for place, new in damages:
        content[place % (len(content) + 1) : place % (len(content) + 1)] = new
    if any(bytes(content).startswith(mark) for mark, _ in decode._MARKS):
        return
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"burnish-blocks-{os.getpid()}"
    path.write_bytes(bytes(content))
    seen = decode.Undecodable()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode, "_BLOCK", 16)
        found = "".join(decode.text_blocks(path, seen, encoding=encoding, on_bad_bytes="replace"))
    path.unlink()
    whole, bad = decode._decode(bytes(content), encoding)
    if encoding.startswith(("utf-16", "utf-32")) and bad:
        return  # what a cut character swallows there depends on where the line ends
    assert found == whole
    assert seen.sequences == len(bad)
    lines = decode._line_numbers(bytes(content), [start for start, _ in bad])
    assert (seen.rows, seen.lines) == (len(set(lines)), sorted(set(lines))[:20])


def test_names_are_written_out_when_they_are_asked_for() -> None:
    names = ["a.jsonl:1", "a.jsonl:20", "b:c.csv:3", "odd", "x:0"]
    made = RowNames.of(names)
    assert list(made) == names and made[-2] == "odd" and list(made[1:3]) == names[1:3]
    assert made.index("b:c.csv:3") == 2 and made == names and made.files[0] == "a.jsonl"


MEASURE = """
import json, resource, sys
from burnish.data.config import DataConfig
from burnish.data.prepare import prepare
from tests.support.tiny import tiny_tokenizer

def peak(count):
    path = f"{sys.argv[1]}/{count}.jsonl"
    with open(path, "w") as file:
        for i in range(count):
            file.write(json.dumps({"prompt": f"the cat {i} sat on the mat:", "completion": f" dog {i % 7}"}) + "\\n")
    config = DataConfig.model_validate({"train": path, "split": {"validation": 50}})
    prepare(config, tiny_tokenizer(), "causal", 0, in_memory=1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

first = peak(2000)
print(json.dumps([first, peak(40000)]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "darwin", reason="the unit of ru_maxrss differs")
def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    """Twenty times the rows: less than 25 MB more at the peak, mapped pages of the table (6 MB) included.

    38,000 more rows keep 44 bytes each (1.7 MB), and sorting their hashes takes about as much again. The code that
    held every row took 2.9 kB of each, which makes 110 MB.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=True)
    few, many = json.loads(answer.stdout.splitlines()[-1])
    assert many - few < 25_000, (few, many)


def test_some_examples_are_read_in_one_pass(tmp_path: Path) -> None:
    """Rows 7, 2 and 7 again of 20 training rows: the order asked for, one pass over the file, and none behind row 7."""
    rows = [{"prompt": f"Q{i}:", "completion": f" {i}"} for i in range(20)]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    config = DataConfig.model_validate({"train": str(path), "split": {"validation": 0}})
    examples = prepare(config, tiny_tokenizer(), "causal", 0, chunk=5).examples["train"]
    assert isinstance(examples, Reread)
    passes, read = examples.chunks, list[int]()

    def counted() -> Iterator[Converted]:
        for converted in passes():
            read.append(len(converted.examples))
            yield converted

    found = some_of(Reread(counted, examples.numbers), [7, 2, 7])
    assert [e.prompt_text for e in found] == ["Q7:", "Q2:", "Q7:"] and read == [5, 5]
    assert some_of(["a", "b"], [1]) == ["b"] and some_of(examples, []) == []  # type: ignore[list-item, comparison-overlap]
