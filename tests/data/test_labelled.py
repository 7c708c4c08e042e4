"""Rows of a classification: columns found, classes settled, tokens as the tokenizer itself makes them."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.findings import refuse_stops
from burnish.data import cache
from burnish.data.batches import collate
from burnish.data.config import DataConfig, RenderConfig
from burnish.data.example import Example
from burnish.data.inspect import inspect_rows
from burnish.data.labelled import Classes, LabelledRenderer, absent_findings, recheck_labelled
from burnish.data.prepare import Prepared, prepare
from burnish.data.render import Rendered
from burnish.data.streams import SPLITS, Opened
from burnish.data.table import ARRAYS
from burnish.data.tasks import ClassTask
from tests.support.recipes import write_rows
from tests.support.tiny import tiny_tokenizer

WORDS = ["a", "good", "film", "bad", "plot", "dull", "great", "acting", "slow", "ending", "[", "]"]


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer that frames texts as BERT's does, token types included."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*specials, *WORDS])}, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def texts(count: int, longest: int = 9) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS[:10], k=draw.randint(1, longest))) for _ in range(count)]


def prepared(folder: Path, rows: list[dict[str, Any]], labels: tuple[str, ...] = (), **source: Any) -> Prepared:
    path = write_rows(folder / "rows.jsonl", rows)
    config = build(
        DataConfig, {"train": {"path": str(path), **source}, "split": {"validation": 3}, "duplicates": "keep"}
    )
    return prepare(config, bert_tokenizer(), "encoder", 0, classes=Classes(labels))


def labelled(count: int = 30) -> list[dict[str, Any]]:
    return [{"text": f"{t} {i}", "label": ("b", "a", "c")[i % 3]} for i, t in enumerate(texts(count))]


@pytest.mark.parametrize("limit", [100, 7])
def test_single_texts_are_framed_as_the_tokenizer_does(limit: int) -> None:
    """Also where they are cut: `transformers` truncates at the end and keeps the frame."""
    tokenizer = bert_tokenizer()
    given = texts(40)
    renderer = LabelledRenderer(tokenizer, RenderConfig(max_length=limit), ["x", "y"])
    rows = renderer.render_all([Example(str(i), prompt=t, completion="y") for i, t in enumerate(given)])
    expected = tokenizer(given, truncation=True, max_length=limit)["input_ids"]
    for row, ids in zip(rows, expected, strict=True):
        assert isinstance(row, Rendered) and row.input_ids == ids and row.label == 1
    assert any(r.truncated for r in rows if isinstance(r, Rendered)) == (limit == 7)


@pytest.mark.parametrize("limit", [100, 9])
def test_pairs_are_framed_as_the_tokenizer_does(limit: int) -> None:
    """Ids and token types; `longest_first` takes from the longer text until both fit."""
    tokenizer = bert_tokenizer()
    pairs = list(zip(texts(40), reversed(texts(40)), strict=True))
    renderer = LabelledRenderer(tokenizer, RenderConfig(max_length=limit), ["x", "y"])
    rows = renderer.render_all([Example("", prompt=a, pair=b, completion="x") for a, b in pairs])
    theirs = tokenizer([a for a, _ in pairs], [b for _, b in pairs], truncation="longest_first", max_length=limit)
    for row, ids, types in zip(rows, theirs["input_ids"], theirs["token_type_ids"], strict=True):
        assert isinstance(row, Rendered) and len(row.input_ids) == len(ids)
        if not row.truncated:
            assert row.input_ids == ids
            assert [int(i >= len(row.prompt_ids)) for i in range(len(ids))] == types


def test_a_decoders_text_is_its_tokens() -> None:
    """No special tokens around it, where the tokenizer adds none; an empty row would have nothing to read."""
    tokenizer = tiny_tokenizer()
    renderer = LabelledRenderer(tokenizer, RenderConfig(), ["x", "y"])
    row = renderer.render(Example("", prompt="what a day", completion="x"))
    assert row.input_ids == tokenizer("what a day")["input_ids"]


def test_batches_carry_classes_positions_and_token_types(tmp_path: Path) -> None:
    """Packed and padded batches hold the same tokens; labels are one a row in the order of the rows."""
    pairs = zip(texts(12), texts(12)[::-1], strict=True)
    rows = [{"text": a, "text_pair": b, "label": "xy"[i % 2]} for i, (a, b) in enumerate(pairs)]
    table = prepared(tmp_path, rows).train
    chosen = [4, 0, 7]
    packed, padded = (collate(table, chosen, layout, 0) for layout in ("packed", "padded"))  # type: ignore[arg-type]
    assert packed["labels"].tolist() == padded["labels"].tolist() == [int(table.labels[r]) for r in chosen]
    assert packed["segment_lengths"] == tuple(int(table.lengths[r]) for r in chosen)
    real = padded["attention_mask"].bool()
    for key in ("input_ids", "position_ids", "token_type_ids"):
        assert padded[key][real].tolist() == packed[key][0].tolist()  # type: ignore[literal-required]
    assert not padded["token_type_ids"][~real].any() and not padded["input_ids"][~real].any()
    first = table.row(4)[0]
    types = packed["token_type_ids"][0, : len(first)].tolist()
    assert types == [0] * (first.tolist().index(3) + 1) + [1] * (len(first) - first.tolist().index(3) - 1)


def test_classes_are_found_sorted_and_counted(tmp_path: Path) -> None:
    """Texts alphabetically, numbers by value; the summary and a note give the counts."""
    found = prepared(tmp_path, labelled())
    assert found.renderer.labels == ("a", "b", "c")  # type: ignore[attr-defined]
    counts = found.summary["splits"]["train"]["classes"]
    assert sum(counts.values()) == len(found.train) == 27
    assert counts["a"] == int((found.train.labels == 0).sum())
    (note,) = [f for f in found.findings if f.code == "data.classes"]
    assert "3 classes" in note.what and f"a {counts['a']}" in note.what
    numbers = [{"text": f"good {i}", "label": (10, 9, "nan")[i % 3]} for i in range(30)]
    assert prepared(tmp_path, numbers).renderer.labels == ("9", "10", "nan")  # type: ignore[attr-defined]


def test_given_classes_keep_their_order_and_one_without_rows_is_named(tmp_path: Path) -> None:
    found = prepared(tmp_path, labelled(), labels=("c", "b", "a", "never"))
    assert found.renderer.labels == ("c", "b", "a", "never")  # type: ignore[attr-defined]
    assert any(f.code == "data.class-without-rows" and "never" in f.what for f in found.findings)


def test_a_class_that_a_split_lacks_is_said(tmp_path: Path) -> None:
    """`c` is trained on and not validated; a split without rows is not spoken of, nor a class that nobody has."""
    counts = {"train": {"a": 5, "b": 5, "c": 2, "d": 0}, "validation": {"a": 2, "b": 1, "c": 0, "d": 0}}
    splits = {name: {"classes": one} for name, one in counts.items()} | {"test": {"classes": dict.fromkeys("abcd", 0)}}
    (said,) = absent_findings(splits)
    assert said.severity == "note" and said.where == "data.validation" and said.what.endswith("has the class `c`")
    none = [{"text": f"good {i}", "label": "c" if i < 2 else "ab"[i % 2]} for i in range(60)]
    found = prepared(tmp_path, none)
    lacks = [n for n, k in found.summary["splits"]["validation"]["classes"].items() if not k]
    assert bool(lacks) == any(f.code == "data.class-not-held-out" for f in found.findings)


def test_columns_are_found_mapped_or_filled(tmp_path: Path) -> None:
    """By name, by `columns`, by templates, or as a prompt and its completion: the same texts and classes."""
    expected = prepared(tmp_path, labelled()).train
    other = [{"tweet": r["text"], "mood": r["label"]} for r in labelled()]
    asked = [{"prompt": r["text"], "completion": f" {r['label']}"} for r in labelled()]
    variants = [
        prepared(tmp_path, other, columns={"text": "tweet", "label": "mood"}),
        prepared(tmp_path, other, prompt="{tweet}", completion="{mood}"),
        prepared(tmp_path, asked),
    ]
    for found in variants:
        assert found.train.input_ids.tolist() == expected.input_ids.tolist()
        assert found.train.labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize(
    ("rows", "labels", "what", "fix"),
    [
        ([{"text": f"good {i}", "sentiment": "ab"[i % 2]} for i in range(9)], (), "column `label`", "label: sentiment"),
        ([{"text": f"good {i}", "label": "a"} for i in range(9)], (), "two classes", ""),
        (labelled(), ("a", "b"), "none of `task.labels`: `c`", "task.labels"),
        ([{"text": f"good {i}", "label": f"say {i}"} for i in range(1100)], (), "different labels", "task.labels"),
    ],
)
def test_what_is_no_classification_is_refused(
    tmp_path: Path, rows: list[dict[str, Any]], labels: tuple[str, ...], what: str, fix: str
) -> None:
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, rows, labels)
    assert what in str(caught.value.what) and fix in caught.value.fix


def test_rows_without_a_label_are_dropped_and_listed(tmp_path: Path) -> None:
    rows = [*labelled(60), {"text": "good", "label": ""}, {"text": " ", "label": "a"}]
    found = prepared(tmp_path, rows)
    reasons = sorted(d["reason"] for d in found.summary["dropped"])
    assert len(reasons) == 2 and "label is empty" in reasons[1] and "text is empty" in reasons[0]


def test_a_class_that_was_swapped_is_seen() -> None:
    """A fault between example and table: rows that say `x` numbered as `y`."""
    renderer = LabelledRenderer(bert_tokenizer(), RenderConfig(), ["x", "y"])
    examples = [Example(f"r:{i}", prompt=t, completion="x") for i, t in enumerate(texts(30))]
    rows = [r for r in renderer.render_all(examples) if isinstance(r, Rendered)]
    assert not recheck_labelled("train", list(zip(examples, rows, strict=True)), renderer)
    swapped = [Example(e.id, prompt=e.prompt, completion="y") for e in examples]
    with pytest.raises(UserError, match="label is not the example's"):
        refuse_stops(recheck_labelled("train", list(zip(swapped, rows, strict=True)), renderer))
    moved = [Example(e.id, prompt="great great great", completion="x") for e in examples]
    with pytest.raises(UserError, match="text is not the example's"):
        refuse_stops(recheck_labelled("train", list(zip(moved, rows, strict=True)), renderer))


def test_inspection_shows_the_class(tmp_path: Path) -> None:
    found = prepared(tmp_path, labelled())
    row = inspect_rows(found, bert_tokenizer(), 1).rows[0]
    assert row.label in "abc" and f"class `{row.label}`" in row.title
    assert row.to_json()["label"] == row.label and row.spans[0].text.startswith("[CLS]")


def paired(count: int = 40) -> list[dict[str, Any]]:
    """Classes that first occur late, copies, rows without a label, and second texts of which some are cut."""
    rows = [
        {"text": f"{a} {i}", "text_pair": b, "label": ("b", "a", "10", "9")[i % (2 if i < 12 else 4)]}
        for i, (a, b) in enumerate(zip(texts(count), texts(count)[::-1], strict=True))
    ]
    return [*rows, *rows[3:6], {"text": "good", "text_pair": "film", "label": ""}]


@pytest.fixture
def streamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """Such rows with evaluation rows of their own, and a cache of their own."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    path = write_rows(tmp_path / "rows.jsonl", paired())
    held = write_rows(tmp_path / "held.jsonl", paired()[30:38])
    data = {"train": str(path), "validation": str(held), "split": {"test": 5}, "render": {"max_length": 12}}
    return build(DataConfig, data)


def test_chunks_disk_and_cache_change_nothing(tmp_path: Path, streamed: DataConfig) -> None:
    """Three rows at a time with tables on the disk, and once more from the cache, equal all rows at once in memory."""
    made = partial(prepare, streamed, bert_tokenizer(), "encoder", 0, classes=Classes())
    whole = made()
    assert not (tmp_path / "cache").exists() and len(whole.train.labels) == len(whole.train) > 20
    on_disk, again = (made(chunk=3, in_memory=0) for _ in range(2))
    assert isinstance(on_disk.train.labels.base, np.memmap) and isinstance(again.train.labels.base, np.memmap)
    assert again.findings.pop(0).code == "data.from-cache"
    for found in (on_disk, again):
        assert found.findings == whole.findings and found.summary == whole.summary
        assert found.renderer.labels == whole.renderer.labels == ("9", "10", "a", "b")  # type: ignore[attr-defined]
        for split in SPLITS:
            ours, theirs = found.table(split), whole.table(split)
            for name in ARRAYS:
                one, other = getattr(ours, name), getattr(theirs, name)
                assert one.dtype == other.dtype and np.array_equal(one, other), (split, name)
            assert ours.ids == theirs.ids and ours.content_hash() == theirs.content_hash()
            assert [e.key for e in found.examples[split]] == [e.key for e in whole.examples[split]]
            names = [whole.renderer.labels[n] for n in ours.labels]  # type: ignore[attr-defined]
            assert [e.label for e in found.examples[split]] == names


def test_other_classes_are_prepared_anew(streamed: DataConfig) -> None:
    """The same files with classes found, listed, and listed in another order, and as text: four keys of the cache."""
    for labels in ((), ("9", "10", "a", "b"), ("a", "b", "9", "10")):
        found = prepare(streamed, bert_tokenizer(), "encoder", 0, classes=Classes(labels), in_memory=0)
        assert "data.from-cache" not in [f.code for f in found.findings]
        assert found.renderer.labels == (labels or ("9", "10", "a", "b"))  # type: ignore[attr-defined]
    opened = Opened.of(streamed, None)
    labelled = replace(opened, task=ClassTask(Classes()))
    keys = {cache.key_of(streamed, bert_tokenizer(), "encoder", 0, one) for one in (opened, labelled)}
    assert len(keys) == 2, "rows to learn as text are others"


def test_a_label_that_training_lacks_is_named_with_its_row(tmp_path: Path) -> None:
    """Two of the held-out rows, in the second and third chunk; found among all rows before any is rendered."""
    rows = [{"text": f"good {i}", "label": "ab"[i % 2]} for i in range(9)]
    odd = [{"text": f"bad {i}", "label": "ab?"[i % 3] if i > 2 else "a"} for i in range(9)]
    data = {
        "train": str(write_rows(tmp_path / "rows.jsonl", rows)),
        "validation": str(write_rows(tmp_path / "held.jsonl", odd)),
    }
    with pytest.raises(
        UserError, match=r"2 rows have a label .* none of the labels of the training rows: `\?`"
    ) as caught:
        prepare(build(DataConfig, data), bert_tokenizer(), "encoder", 0, classes=Classes(), chunk=3)
    assert caught.value.where == "data.validation, row held.jsonl:6"


def test_the_hash_holds_the_classes(tmp_path: Path) -> None:
    """Equal tokens with other classes train otherwise."""
    table = prepared(tmp_path, labelled()).train
    before = table.content_hash()
    table.labels[0] = (table.labels[0] + 1) % 3
    assert table.content_hash() != before
    assert np.array_equal(table.head(5).labels, table.labels[:5])
