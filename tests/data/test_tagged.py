"""Tagged words as tokens: alignment against `transformers`' own, windows, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.findings import refuse_stops
from burnish.data.batches import collate
from burnish.data.config import DataConfig, RenderConfig
from burnish.data.example import Example
from burnish.data.prepare import Prepared, prepare
from burnish.data.render import Rendered
from burnish.data.tagged import TaggedRenderer, TaggedTask
from burnish.data.windows import windows
from tests.data.test_labelled import bert_tokenizer
from tests.support.head_rows import tagged_rows
from tests.support.recipes import write_rows
from tests.support.tiny import tiny_tokenizer

LABELS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


def example(words: list[str], tags: list[str], name: str = "r:1") -> Example:
    return Example(name, prompt=" ".join(words), completion=" ".join(tags), items=tuple(words), marks=tuple(tags))


def examples(count: int, **settings: Any) -> list[Example]:
    rows = tagged_rows(count, **settings)
    return [example(row["tokens"], row["ner_tags"], f"r:{i}") for i, row in enumerate(rows)]


def prepared(folder: Path, rows: list[dict[str, Any]], task: TaggedTask | None = None, **data: Any) -> Prepared:
    path = write_rows(folder / "rows.jsonl", rows)
    values = {"train": {"path": str(path), **data.pop("source", {})}, "split": {"validation": 6}, **data}
    config = build(DataConfig, values)
    return prepare(config, tiny_tokenizer(), "causal", 0, task=task or TaggedTask())


@pytest.mark.parametrize("every", [False, True])
def test_words_and_tokens_are_aligned_as_transformers_does(every: bool) -> None:
    """By `token_to_chars` of its encoding: a token belongs to the word in which it ends."""
    tokenizer = tiny_tokenizer()
    renderer = TaggedRenderer(tokenizer, RenderConfig(), LABELS, every=every)
    for one in examples(30):
        (row,) = renderer.render_all([one])[0]  # type: ignore[misc, union-attr]
        encoding = tokenizer(one.prompt)
        spans = []
        start = 0
        for word in one.items:
            spans.append((start, start + len(word)))
            start += len(word) + 1
        expected, seen = [], set()
        for token in range(len(encoding["input_ids"])):
            place = encoding.token_to_chars(token)
            word = next((i for i, (a, b) in enumerate(spans) if a < place.end <= b), None)
            if word is None:  # a token of its own for the space before a word
                expected.append(-100)
                continue
            tag = one.marks[word]
            if word not in seen:
                expected.append(LABELS.index(tag))
            else:
                expected.append(LABELS.index("I" + tag[1:] if every and tag != "O" else tag) if every else -100)
            seen.add(word)
        assert row.input_ids == encoding["input_ids"]
        assert list(row.token_labels) == expected
        assert sum(row.trained) == len(one.items)


def test_special_tokens_carry_no_tag() -> None:
    renderer = TaggedRenderer(bert_tokenizer(), RenderConfig(), ("O", "B-X"))
    (row,) = renderer.render_all([example(["good", "film"], ["O", "B-X"])])[0]  # type: ignore[misc, union-attr]
    assert row.token_labels == (-100, 0, 1, -100) and row.trained == [False, True, True, False]


@pytest.mark.parametrize(("count", "room", "stride"), [(10, 10, 3), (11, 10, 3), (50, 7, 0), (50, 8, 5), (100, 30, 7)])
def test_every_token_belongs_to_one_window(count: int, room: int, stride: int) -> None:
    """And no window begins where the one before it would have reached the end."""
    found = windows(count, room, stride)
    owned = [i for w in found for i in range(w.own, w.own_end)]
    assert owned == list(range(count))
    assert all(w.begin <= w.own <= w.own_end <= w.end and w.end - w.begin <= room for w in found)
    assert found[-1].end == count and all(w.end < count for w in found[:-1])
    assert all(a.end - b.begin == stride for a, b in pairwise(found))


@pytest.mark.parametrize("every", [False, True])
def test_a_long_text_is_learnt_once_in_windows(every: bool) -> None:
    """Each word's tag is decided in exactly one window, in the order of the words."""
    renderer = TaggedRenderer(tiny_tokenizer(), RenderConfig(max_length=24), LABELS, every=every, stride=8)
    for one in examples(10, longest=60):
        rows = renderer.render_all([one])[0]
        assert isinstance(rows, tuple)
        said = [LABELS[n] for r in rows for n, on in zip(r.token_labels, r.trained, strict=True) if on]
        assert said == list(one.marks) and all(len(r.input_ids) <= 24 for r in rows)
        assert len(rows) == 1 or all("window" in r.marks for r in rows)


def test_tags_are_found_and_kinds_counted(tmp_path: Path) -> None:
    """`O` first, kinds together; rows that hold a kind are counted, and integers need names."""
    found = prepared(tmp_path, tagged_rows(40))
    assert found.renderer.labels == LABELS  # type: ignore[attr-defined]
    held = found.summary["splits"]["train"]["classes"]
    assert set(held) == {"LOC", "PER"} and 0 < held["PER"] <= len(found.train) == 34
    numbered = [{**r, "ner_tags": [LABELS.index(t) for t in r["ner_tags"]]} for r in tagged_rows(40)]
    again = prepared(tmp_path, numbered, TaggedTask(LABELS))
    assert again.train.token_labels.tolist() == found.train.token_labels.tolist()
    with pytest.raises(UserError, match="nothing says what they mean") as caught:
        prepared(tmp_path, numbered)
    assert "labels:" in caught.value.fix


def test_batches_carry_tags_in_every_layout(tmp_path: Path) -> None:
    table = prepared(tmp_path, tagged_rows(40)).train
    packed, padded = (collate(table, [3, 0, 5], layout, 0) for layout in ("packed", "padded"))  # type: ignore[arg-type]
    real = padded["attention_mask"].bool()
    assert padded["labels"][real].tolist() == packed["labels"][0].tolist()
    assert (padded["labels"][~real] == -100).all()


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"tokens": ["a", "b"], "ner_tags": ["O"]}, "expected 2 tags, one a word, found 1 tags"),
        ({"tokens": "a b", "ner_tags": ["O", "O"]}, "expected a list of words"),
        ({"tokens": ["a", " "], "ner_tags": ["O", "O"]}, "expected words"),
        ({"tokens": ["a"], "ner_tags": [1.5]}, "names or numbers"),
        ({"tokens": ["a"]}, "no such column"),
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, [*tagged_rows(10), row])
    assert what in caught.value.what and "rows.jsonl:11" in caught.value.what


@pytest.mark.parametrize(
    ("rows", "task", "what"),
    [
        ([{"tokens": ["a", str(i)], "ner_tags": ["O", "O"]} for i in range(9)], TaggedTask(), "two tags"),
        (tagged_rows(9), TaggedTask(("O", "B-PER", "I-PER")), "none of `task.labels`: `B-LOC`"),
        ([{"tokens": ["a", str(i)], "ner_tags": ["B-X", "NOUN"]} for i in range(9)], TaggedTask(), "`NOUN` is not"),
        ([{"words": ["a"], "ner_tags": ["O"]}] * 9, TaggedTask(), "column `tokens`"),
    ],
)
def test_what_cannot_be_tagged_is_refused(tmp_path: Path, rows: Any, task: TaggedTask, what: str) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, rows, task)
    assert what in caught.value.what


def test_a_tag_that_training_lacks_is_named_with_its_row(tmp_path: Path) -> None:
    odd = write_rows(
        tmp_path / "odd.jsonl", [{"tokens": ["x"], "ner_tags": ["O"]}, {"tokens": ["y"], "ner_tags": ["B-ORG"]}]
    )
    with pytest.raises(UserError, match="`B-ORG`") as caught:
        prepared(tmp_path, tagged_rows(20), validation=str(odd), split={"validation": 0})
    assert caught.value.where == "data.validation, row odd.jsonl:2"


def test_windows_that_cannot_overlap_so_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not fit") as caught:
        prepared(tmp_path, tagged_rows(20, longest=60), TaggedTask(stride=16), render={"max_length": 16})
    assert caught.value.where == "task.stride"


def test_other_schemes_and_shifted_tags_are_seen() -> None:
    """An entity that begins with `I-` is warned of; tags that stand one word off stop the run."""
    task = TaggedTask()
    renderer = TaggedRenderer(tiny_tokenizer(), RenderConfig(), LABELS)
    one = example(["the", "cat", "sat"], ["O", "I-PER", "O"])
    sample = [(one, renderer.render(one))]
    assert [f.code for f in task.look_again("train", sample, renderer)] == ["data.entity-begins-inside"]
    good = examples(20)
    rows = [renderer.render(e) for e in good]
    assert not task.look_again("train", list(zip(good, rows, strict=True)), renderer)
    moved = [
        Rendered(
            r.input_ids,
            r.trained,
            r.prompt_ids,
            [],
            r.full_length,
            token_labels=r.token_labels[1:] + r.token_labels[:1],
        )
        for r in rows
    ]
    with pytest.raises(UserError, match="a tag is not on its word"):
        refuse_stops(task.look_again("train", list(zip(good, moved, strict=True)), renderer))
