"""Questions with their contexts as tokens: where the answer stands, in which window, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.core.config import build
from burnish.core.errors import UserError
from burnish.data.config import DataConfig, RenderConfig
from burnish.data.example import Example
from burnish.data.prepare import Prepared, prepare
from burnish.data.render import Rendered
from burnish.data.spans import ENDS, NONE, SpanRenderer, SpanTask
from tests.data.test_labelled import bert_tokenizer
from tests.support.head_rows import asked_rows
from tests.support.recipes import write_rows
from tests.support.tiny import tiny_tokenizer


def prepared(folder: Path, rows: list[dict[str, Any]], task: SpanTask | None = None, **data: Any) -> Prepared:
    path = write_rows(folder / "rows.jsonl", rows)
    config = build(DataConfig, {"train": {"path": str(path)}, "split": {"validation": 6}, **data})
    return prepare(config, tiny_tokenizer(), "causal", 0, task=task or SpanTask())


def example(question: str, context: str, answer: str) -> Example:
    start = context.index(answer) if answer else 0
    items = (answer,) if answer else ()
    return Example("r:1", prompt=question, pair=context, completion=answer, items=items, marks=(start,) * len(items))


def test_a_pair_is_framed_as_the_tokenizer_does() -> None:
    """`[CLS] question [SEP] context [SEP]` with token types; the answer is the second word of the context, token 5."""
    tokenizer = bert_tokenizer()
    renderer = SpanRenderer(tokenizer, RenderConfig(), ENDS)
    (row,) = renderer.render_all([example("good film", "a great plot", "great")])[0]  # type: ignore[misc, union-attr]
    theirs = tokenizer("good film", "a great plot")
    assert row.input_ids == theirs["input_ids"] and len(row.prompt_ids) == theirs["token_type_ids"].index(1)
    assert row.values == (5, 5, 4, 7, 0)


@pytest.mark.parametrize("limit", [200, 48, 40])
def test_places_decode_to_the_answer_in_every_window(limit: int) -> None:
    """Over windows that overlap: wherever a place is learnt, its tokens say the answer; nowhere else is it whole."""
    tokenizer = tiny_tokenizer()
    renderer = SpanRenderer(tokenizer, RenderConfig(max_length=limit), ENDS, stride=12)
    filler = " and the cat sat on the mat" * 4
    for i, row in enumerate(asked_rows(20)):
        context = filler[: 7 * i] + row["context"] + filler
        one = example(row["question"], context, row["answers"]["text"][0])
        windows = renderer.render_all([one])[0]
        assert isinstance(windows, tuple) and all(len(w.input_ids) <= limit for w in windows)
        found = [w for w in windows if w.values[1]]
        assert found and "lost-answer" not in windows[0].marks
        for window in found:
            first, last = (int(v) for v in window.values[:2])
            assert tokenizer.decode(window.input_ids[first : last + 1]).strip() == one.items[0]
        (places,) = renderer.context_places([one])
        for w in windows:
            begin, end, before = (int(v) for v in w.values[2:])
            assert w.input_ids[begin:end] == [t for t, _, _ in places[before : before + end - begin]]


def test_an_answer_in_no_window_is_said(tmp_path: Path) -> None:
    """An answer longer than the overlap, across a border: every window says so, and the run is warned."""
    context = "the cat sat on the mat and looked at the dog " * 3
    start, text = 20, context[20:100]
    rows = [
        *asked_rows(30),
        {"question": "where", "context": context, "answers": {"text": [text], "answer_start": [start]}},
    ]
    found = prepared(tmp_path, rows, SpanTask(stride=2), render={"max_length": 30}, split={"validation": 0})
    lost = [f for f in found.findings if f.code == "render.answer-in-no-window"]
    assert lost and lost[0].severity == "warning"
    assert any(f.code == "render.windows" for f in found.findings)


def test_no_answer_is_found_in_the_rows(tmp_path: Path) -> None:
    """Rows with an empty list make a third name; then places 0 mean that there is none."""
    assert not prepared(tmp_path, asked_rows(30)).renderer.no_answer  # type: ignore[attr-defined]
    found = prepared(tmp_path, asked_rows(30, unanswerable=True))
    assert found.renderer.no_answer and found.renderer.labels == ENDS  # type: ignore[attr-defined]
    counts = found.summary["splits"]["train"]["classes"]
    assert counts["not in the window"] == sum(not e.items for e in found.examples["train"]) > 0


def test_forms_of_answers(tmp_path: Path) -> None:
    """SQuAD's lists, its older list of mappings, single values, and columns of their own give the same rows."""
    plain = asked_rows(20)
    expected = prepared(tmp_path, plain).train.values.tolist()
    texts = [(r["answers"]["text"][0], r["answers"]["answer_start"][0]) for r in plain]
    old = [{**r, "answers": [{"text": t, "answer_start": s}]} for r, (t, s) in zip(plain, texts, strict=True)]
    single = [{**r, "answers": {"text": t, "answer_start": s}} for r, (t, s) in zip(plain, texts, strict=True)]
    apart = [
        {"question": r["question"], "context": r["context"], "answer": t, "answer_start": s}
        for r, (t, s) in zip(plain, texts, strict=True)
    ]
    for rows in (old, single, apart):
        assert prepared(tmp_path, rows).train.values.tolist() == expected


@pytest.mark.parametrize(
    ("answers", "what"),
    [
        ({"text": ["cat"], "answer_start": [0]}, "it stands at character 4"),
        ({"text": ["cow"], "answer_start": [4]}, "does not hold this text"),
        ({"text": ["cat"], "answer_start": [400]}, "a context of 19 characters"),
        ({"text": ["cat"], "answer_start": [-3]}, "a context of 19 characters"),
        ({"text": ["cat"], "answer_start": ["4"]}, "first character"),
        ({"text": ["cat", "mat"], "answer_start": [4]}, "2 texts and 1 places"),
        ({"text": [""], "answer_start": [4]}, "leave the list empty"),
        (7, "`{text: […], answer_start: […]}`"),
    ],
)
def test_spans_outside_of_the_context_are_named(tmp_path: Path, answers: Any, what: str) -> None:
    row = {"question": "who", "context": "the cat on the mats", "answers": answers}
    with pytest.raises(UserError) as caught:
        prepared(tmp_path, [*asked_rows(10), row])
    assert what in caught.value.what and "rows.jsonl:11" in caught.value.what


def test_questions_that_cannot_be_learnt_are_refused(tmp_path: Path) -> None:
    """No answers at all; unanswerable rows only where nothing was learnt of such; a question that fills the row."""
    none = [{**r, "answers": {"text": [], "answer_start": []}} for r in asked_rows(12)]
    with pytest.raises(UserError, match="no training row has an answer"):
        prepared(tmp_path, none)
    with pytest.raises(UserError, match="says that every question has one"):
        prepared(tmp_path, asked_rows(30, unanswerable=True), SpanTask(no_answer=False))
    odd = write_rows(tmp_path / "odd.jsonl", none)
    with pytest.raises(UserError, match="has learnt from none like it") as caught:
        prepared(tmp_path, asked_rows(30, seed=1), validation=str(odd), split={"validation": 0})
    assert caught.value.where == "data.validation, row odd.jsonl:1"
    long = [{**r, "question": "where " * 40} for r in asked_rows(12)]
    with pytest.raises(UserError, match="tokens, which leaves"):
        prepared(tmp_path, long, render={"max_length": 32})


def test_empty_questions_are_dropped_and_listed(tmp_path: Path) -> None:
    found = prepared(tmp_path, [*asked_rows(40), {**asked_rows(1)[0], "question": " "}])
    assert [d["reason"] for d in found.summary["dropped"]] == ["the question is empty (column `question`)"]


def test_a_place_that_moved_is_seen() -> None:
    task, renderer = SpanTask(), SpanRenderer(tiny_tokenizer(), RenderConfig(), (*ENDS, NONE))
    examples = [example(r["question"], r["context"], r["answers"]["text"][0]) for r in asked_rows(20)]
    rows = [renderer.render(e) for e in examples]
    assert not task.look_again("train", list(zip(examples, rows, strict=True)), renderer)
    moved = [
        Rendered(
            r.input_ids,
            r.trained,
            r.prompt_ids,
            [],
            r.full_length,
            values=(r.values[0] - 3, r.values[1] - 3, *r.values[2:]),
        )
        for r in rows
    ]
    (finding,) = task.look_again("train", list(zip(examples, moved, strict=True)), renderer)
    assert finding.severity == "stop" and "not the answer's" in finding.what
