"""Rows of several classes, scores and preferences as tokens, and questions whose answer is to be written."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.core.findings import refuse_stops
from burnish.data import cache
from burnish.data.batches import collate
from burnish.data.config import DataConfig, RenderConfig
from burnish.data.example import Example
from burnish.data.prepare import Prepared, prepare
from burnish.data.spans import SpanTask
from burnish.data.streams import SPLITS, Opened
from burnish.data.tagged import TaggedTask
from burnish.data.valued import PairRenderer, PairTask, ScoredTask, SeveralTask
from burnish.models.forward import hidden_states, supports_packing
from tests.data.test_labelled import bert_tokenizer, texts
from tests.support.head_rows import ROWS, asked_rows, preferred_rows, scored_rows, several_rows, tagged_rows
from tests.support.recipes import write_rows
from tests.support.tiny import tiny, tiny_tokenizer

TASKS: dict[str, Any] = {
    "token-classification": TaggedTask(),
    "extractive-qa": SpanTask(),
    "multi-label": SeveralTask(),
    "regression": ScoredTask(),
    "ranking": PairTask(),
}


def prepared(folder: Path, rows: Any, task: Any = None, **data: Any) -> Prepared:
    path = write_rows(folder / "rows.jsonl", rows)
    source = {"path": str(path), **data.pop("source", {})}
    config = build(DataConfig, {"train": source, "split": {"validation": 6}, **data})
    return prepare(config, tiny_tokenizer(), "causal", 0, task=task)


def test_several_classes_are_ones_and_zeros(tmp_path: Path) -> None:
    rows = several_rows(40)
    found = prepared(tmp_path, rows, SeveralTask())
    assert found.renderer.labels == ("cat", "dog", "mat")  # type: ignore[attr-defined]
    wanted = {r["text"]: [float(n in r["labels"]) for n in ("cat", "dog", "mat")] for r in rows}
    table = found.train
    assert table.values.reshape(-1, 3).tolist() == [wanted[e.prompt] for e in found.examples["train"]]
    batch = collate(table, [4, 1], "packed", 0)
    assert batch["labels"].tolist() == [wanted[found.examples["train"][i].prompt] for i in (4, 1)]
    assert sum(found.summary["splits"]["train"]["classes"].values()) == int(table.values.sum())


def test_scores_are_standardised_over_the_training_rows(tmp_path: Path) -> None:
    """Mean 0 and deviation 1 in training, and the same two numbers for the held-out rows."""
    found = prepared(tmp_path, scored_rows(60), ScoredTask())
    renderer: Any = found.renderer
    assert found.train.values.mean() == pytest.approx(0, abs=1e-12) and found.train.values.std() == pytest.approx(1)
    back = found.validation.values * renderer.deviation + renderer.mean
    assert back.tolist() == pytest.approx([float(e.label) for e in found.examples["validation"]])
    again = prepared(tmp_path, scored_rows(60), ScoredTask(100.0, 5.0)).train.values
    assert again.min() == 0.0 and again.max() == 8.0  # 0 to 4 cats are 100 to 140


def test_pairs_are_two_rows_each(tmp_path: Path) -> None:
    """Chosen rows first, rejected behind; each is the prompt, a line break and its text."""
    found = prepared(tmp_path, preferred_rows(30), PairTask())
    table, tokenizer = found.train, tiny_tokenizer()
    for layout in ("packed", "padded"):
        batch = collate(table, [2, 7], layout, 0)  # type: ignore[arg-type]
        rows = batch["input_ids"]
        if layout == "packed":
            said = [tokenizer.decode(part) for part in rows[0].split(list(batch["segment_lengths"]))]
        else:
            said = [tokenizer.decode(r[m.bool()]) for r, m in zip(rows, batch["attention_mask"], strict=True)]
        examples = [found.examples["train"][i] for i in (2, 7)]
        assert said == [
            f"{e.prompt}\n{t}" for e, t in [(x, x.pair) for x in examples] + [(x, x.completion) for x in examples]
        ]


def test_an_exchanged_pair_is_seen() -> None:
    renderer, task = PairRenderer(tiny_tokenizer(), RenderConfig(), ("score",)), PairTask()
    example = Example("r:1", prompt="describe", pair="the cat", completion="the dog")
    row = renderer.render(example)
    assert not task.look_again("train", [(example, row)], renderer)
    swapped = Example("r:1", prompt="describe", pair="the dog", completion="the cat")
    with pytest.raises(UserError, match="another target"):
        refuse_stops(task.look_again("train", [(swapped, row)], renderer))


def test_a_class_that_only_held_out_rows_have_is_refused(tmp_path: Path) -> None:
    odd = write_rows(tmp_path / "odd.jsonl", [{"text": "a cat", "labels": ["cat", "cow"]}])
    with pytest.raises(UserError, match="`cow`") as caught:
        prepared(tmp_path, several_rows(40), SeveralTask(), validation=str(odd), split={"validation": 0})
    assert caught.value.where == "data.validation, row odd.jsonl:1"


@pytest.mark.parametrize("chat", ["auto", "always"])
def test_questions_with_context_become_prompts(tmp_path: Path, chat: str) -> None:
    """Context, question and answer stand apart; only the answer, the first of several, is trained."""
    rows = asked_rows(30)
    rows[0]["answers"] = {"text": ["one", "the one"], "answer_start": [0, 0]}  # places do not matter here
    found = prepared(tmp_path, rows, render={"chat": chat}, split={"validation": 0})
    assert found.summary["sources"][0]["format"] == "question_answer"
    example, row = found.examples["train"][1], rows[1]
    expected = f"Context:\n{row['context']}\n\nQuestion: {row['question']}\nAnswer:"
    assert expected in example.prompt_text and example.items == tuple(row["answers"]["text"])
    ids, trained = found.train.row(1)
    said = tiny_tokenizer().decode(ids[trained])
    assert said.startswith(row["answers"]["text"][0] if chat == "always" else " " + row["answers"]["text"][0])
    assert row["context"] not in said
    assert found.examples["train"][0].items == ("one", "the one")


def test_answers_that_are_not_in_the_context_are_counted(tmp_path: Path) -> None:
    """All of 30 are there: a note; half of them are not: a warning with the first such row."""
    rows = asked_rows(30)
    (note,) = [
        f for f in prepared(tmp_path, rows, split={"validation": 0}).findings if f.code == "data.answer-in-context"
    ]
    assert note.severity == "note" and "100% of 30" in note.what
    odd = [{**r, "answers": {"text": ["elsewhere"], "answer_start": [0]}} if i % 2 else r for i, r in enumerate(rows)]
    (warned,) = [
        f for f in prepared(tmp_path, odd, split={"validation": 0}).findings if f.code == "data.answer-in-context"
    ]
    assert warned.severity == "warning" and "50% of 30" in warned.what and warned.where == "rows.jsonl:2"


def test_a_question_without_answer_is_dropped(tmp_path: Path) -> None:
    rows = [*asked_rows(40), {"question": "who", "context": "a cat", "answers": {"text": [], "answer_start": []}}]
    assert prepared(tmp_path, rows).summary["dropped"][0]["reason"] == "there is no target: the row has no answer"


def test_packed_pairs_of_texts_reach_the_model_with_their_types() -> None:
    """A pack is filled up to a multiple of 32 on a processor; the types of the second texts are filled up with it."""
    model = tiny("bert")
    assert supports_packing(model)
    tokenizer = bert_tokenizer()
    given = tokenizer(texts(3), texts(3)[::-1])
    rows = [torch.tensor(ids) for ids in given["input_ids"]]
    types = [torch.tensor(t) for t in given["token_type_ids"]]
    lengths = tuple(len(r) for r in rows)
    assert sum(lengths) % 32
    packed: Any = {
        "input_ids": torch.cat(rows)[None],
        "token_type_ids": torch.cat(types)[None],
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
        "segment_lengths": lengths,
    }
    with torch.no_grad():
        alone = [
            hidden_states(model, {"input_ids": r[None], "token_type_ids": t[None]})
            for r, t in zip(rows, types, strict=True)
        ]
        torch.testing.assert_close(hidden_states(model, packed), torch.cat(alone, dim=1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", sorted(ROWS))
def test_chunks_disk_and_cache_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Three rows at a time on the disk, and once more from the cache: the same rows, windows, targets and examples."""
    monkeypatch.setenv("BURNISH_CACHE", str(tmp_path / "cache"))
    path = write_rows(tmp_path / "rows.jsonl", ROWS[name](70))
    data = {"train": str(path), "split": {"validation": 5, "test": 5}, "render": {"max_length": 24}}
    config = build(DataConfig, data)
    made = partial(prepare, config, tiny_tokenizer(), "causal", 0, task=TASKS[name])
    whole = made()
    on_disk, again = (made(chunk=3, in_memory=0) for _ in range(2))
    assert again.findings.pop(0).code == "data.from-cache"
    for found in (on_disk, again):
        assert found.findings == whole.findings and found.summary == whole.summary
        for split in SPLITS:
            assert found.table(split).content_hash() == whole.table(split).content_hash()
            ours, theirs = ([replace(e, fields={}) for e in p.examples[split]] for p in (found, whole))
            assert ours == theirs and len(ours) == len(found.table(split))


def test_each_task_is_prepared_for_itself(tmp_path: Path) -> None:
    """Other labels, strides or units give other keys of the cache."""
    opened = Opened.of(build(DataConfig, {"train": str(write_rows(tmp_path / "rows.jsonl", tagged_rows(9)))}), None)
    tasks = [
        None,
        *TASKS.values(),
        TaggedTask(stride=3),
        TaggedTask(every=True),
        SpanTask(stride=3),
        ScoredTask(1.0, 2.0),
    ]
    config = build(DataConfig, {"train": str(tmp_path / "rows.jsonl")})
    keys = {
        cache.key_of(config, tiny_tokenizer(), "causal", 0, replace(opened, task=task) if task else opened)
        for task in tasks
    }
    assert len(keys) == len(tasks)
