"""Which format a source has, and what its rows become."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.core.errors import UserError
from burnish.data.config import ChatMode, SourceConfig
from burnish.data.formats import Converted, convert, plan_source
from burnish.data.rows import BadRows, Row, refuse_bad_rows

USER, ANSWER = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}


def converted(rows: list[dict[str, Any]], chat: ChatMode = "auto", **options: Any) -> tuple[str, Converted]:
    source = SourceConfig.model_validate({"path": "rows.jsonl", **options})
    read = [Row(fields, "rows.jsonl", number) for number, fields in enumerate(rows, start=1)]
    plan = plan_source(source, dict.fromkeys(name for row in rows for name in row), rows[0], chat)
    return plan.format, convert(read, plan)


@pytest.mark.parametrize(
    ("row", "format"),
    [
        ({"prompt": "a", "completion": "b"}, "prompt_completion"),
        ({"messages": [USER, ANSWER]}, "messages"),
        ({"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}, "sharegpt"),
        ({"instruction": "a", "input": "", "output": "b"}, "alpaca"),
        ({"instruction": "a", "output": "b", "text": "ab"}, "alpaca"),
        ({"text": "a"}, "text"),
    ],
)
def test_formats_are_recognised(row: dict[str, Any], format: str) -> None:
    found, result = converted([row])
    assert found == format
    assert len(result.examples) == 1 and not result.bad and not result.dropped


def test_an_unknown_format_shows_its_columns() -> None:
    with pytest.raises(UserError, match="`question`, `reply`") as caught:
        converted([{"question": "a", "reply": "b"}])
    assert "template" in caught.value.fix


def test_columns_can_be_mapped() -> None:
    row = {"question": "a", "reply": "b"}
    _, result = converted([row], columns={"prompt": "question", "completion": "reply"})
    assert (result.examples[0].prompt, result.examples[0].completion) == ("a", "b")
    with pytest.raises(UserError, match="no column `quest`") as caught:
        converted([row], columns={"prompt": "quest", "completion": "reply"})
    assert "question" in caught.value.fix


def test_templates() -> None:
    """A brace is written twice; a column that is empty leaves no target."""
    rows = [{"text": "x", "label": "yes"}, {"text": "y", "label": ""}]
    _, result = converted(rows, prompt="{{Q}} {text}\nA:", completion=" {label}")
    assert result.examples[0].prompt == "{Q} x\nA:"
    assert result.examples[0].completion == " yes"
    assert [d.id for d in result.dropped] == ["rows.jsonl:2"]


@pytest.mark.parametrize("template", ["{text.__class__}", "{text!r}", "{0}", "{text", "{}"])
def test_templates_name_columns_and_nothing_else(template: str) -> None:
    with pytest.raises(UserError):
        converted([{"text": "x", "label": "y"}], prompt=template, completion="{label}")


def test_alpaca_is_the_published_prompt() -> None:
    """As tatsu-lab's `train.py` prints it, with and without an input."""
    _, result = converted(
        [{"instruction": "Add.", "input": "1 2", "output": "3"}, {"instruction": "Hi.", "output": "Yo"}]
    )
    first, second = (e.prompt or "" for e in result.examples)
    assert first.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n")
    assert "paired with an input" in first and "paired with an input" not in second
    assert second.endswith("### Instruction:\nHi.\n\n### Response:\n")


def test_chat_always_wraps_prompts() -> None:
    _, result = converted([{"prompt": "a", "completion": "b"}], "always", system="Be brief.")
    messages = result.examples[0].messages
    assert messages is not None
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]


def test_tool_turns_survive() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    turns = [
        USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "2"},
        ANSWER,
    ]
    _, result = converted([{"messages": turns, "tools": [{"type": "function", "function": {"name": "add"}}]}])
    messages = result.examples[0].messages
    assert messages is not None
    assert messages[1]["tool_calls"][0]["function"]["name"] == "add"
    assert messages[2]["role"] == "tool"
    assert result.examples[0].tools


def test_sharegpt_roles() -> None:
    turns = [{"from": "system", "value": "s"}, {"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]
    _, result = converted([{"conversations": turns}])
    messages = result.examples[0].messages
    assert messages is not None
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]


def test_every_bad_row_is_listed_with_its_field() -> None:
    """Rows 2 to 5 are wrong in four ways; one refusal names all of them."""
    rows = [
        {"messages": [USER, ANSWER]},
        {"messages": "hello"},
        {"messages": [{"role": "robot", "content": "x"}, ANSWER]},
        {"messages": [USER, {"role": "assistant", "content": 7}]},
        {},
    ]
    _, result = converted(rows)
    assert [b.line for b in result.bad] == [2, 3, 4, 5]
    with pytest.raises(UserError, match="4 rows are wrong") as caught:
        refuse_bad_rows(BadRows(result.bad))
    for words in ("rows.jsonl:2", "rows.jsonl:3", "messages[0].role", "messages[1].content", "robot", "expected"):
        assert words in caught.value.what


def test_conversations_without_an_answer_are_dropped() -> None:
    _, result = converted([{"messages": [USER, ANSWER]}, {"messages": [USER]}])
    assert [d.id for d in result.dropped] == ["rows.jsonl:2"]


@pytest.mark.parametrize(
    ("row", "chat", "options"),
    [
        ({"messages": [USER, ANSWER]}, "never", {}),
        ({"prompt": "a", "completion": "b"}, "auto", {"system": "s"}),
        ({"text": "a"}, "auto", {"format": "messages"}),
    ],
)
def test_contradictions_are_refused(row: dict[str, Any], chat: ChatMode, options: dict[str, Any]) -> None:
    with pytest.raises(UserError) as caught:
        converted([row], chat, **options)
    assert caught.value.fix
