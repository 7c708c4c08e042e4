"""The example: one row, read in one of the known formats, before it becomes tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """One row in one of three shapes: a conversation, a prompt with its completion, or plain text.

    Attributes:
        id: Where it comes from, `file:line`.
        messages: The conversation as the chat template takes it: `{"role", "content", …}` mappings.
        tools: Descriptions of tools (JSON schema) for the chat template.
        prompt: What is given.
        completion: What is to be written; of a classification, the name of the class.
        text: Plain text that is learnt as a whole.
        fields: The columns of the row as they were read; held-out examples are kept without them.
        pair: The second text of a classification of pairs; ``prompt`` is the first. Of extractive question answering
            the context, of a ranking the chosen text.
        items: What a target of several parts is made of: the words of a tagged text, the answers to a question, the
            classes of a text that has several.
        marks: What stands beside each item: a word's tag, the place of an answer's first character.
        task: The task that its source names.
    """

    id: str
    messages: tuple[dict[str, Any], ...] | None = None
    tools: tuple[dict[str, Any], ...] | None = None
    prompt: str | None = None
    completion: str | None = None
    text: str | None = None
    fields: dict[str, Any] = field(default_factory=dict)
    pair: str | None = None
    items: tuple[str, ...] = ()
    marks: tuple[Any, ...] = ()
    task: str | None = None

    @classmethod
    def of_json(cls, values: Mapping[str, Any]) -> Example:
        """What ``to_json`` gave."""
        given: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**given)

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, for JSON."""
        named = ((name, getattr(self, name)) for name in self.__slots__)
        return {name: value for name, value in named if value is not None and value != () and value != {}}

    def placed(self, id: str, fields: dict[str, Any], task: str | None = None) -> Example:
        """This example, which was just made and is not shared yet, under its name; a copy of it would take longer."""
        object.__setattr__(self, "id", id)
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "task", task)
        return self

    @property
    def last_target(self) -> int | None:
        """Place of the last assistant turn in the conversation; None without one."""
        for place in range(len(self.messages or ()) - 1, -1, -1):
            if (self.messages or ())[place]["role"] == "assistant":
                return place
        return None

    @property
    def prompt_text(self) -> str:
        """What comes before the (last) target, as plain text; empty for plain text rows."""
        if self.messages is None:
            return (self.prompt or "") + (f"\n{self.pair}" if self.pair is not None else "")
        end = self.last_target
        before = self.messages if end is None else self.messages[:end]
        return "\n".join(f"{m['role']}: {m.get('content') or ''}" for m in before)

    @property
    def target_text(self) -> str:
        """The (last) target as plain text: the completion, the last assistant turn's content, or the whole text."""
        if self.messages is None:
            return self.completion if self.completion is not None else (self.text or "")
        end = self.last_target
        return "" if end is None else self.messages[end].get("content") or ""

    @property
    def label(self) -> str:
        """Of a classification, the name of the class."""
        return (self.completion or "").strip()

    @property
    def prompt_key(self) -> str:
        """Equal for two examples exactly when they are of one task and given the same: the measure of leaks."""
        return self._given if self.task is None else f"task\0{self.task}\0{self._given}"

    @property
    def _given(self) -> str:
        if self.messages is None:
            given = f"text\0{self.text}" if self.text is not None else f"prompt\0{self.prompt}"
            return given if self.pair is None else f"{given}\0{self.pair}"
        end = self.last_target
        before = self.messages if end is None else self.messages[:end]
        return _conversation_key(before, self.tools)

    @property
    def key(self) -> str:
        """Equal for two examples exactly when they are the same: the measure of duplicates."""
        if self.messages is None:
            return f"{self.prompt_key}\0{self.completion}"
        whole = _conversation_key(self.messages, self.tools)
        return whole if self.task is None else f"task\0{self.task}\0{whole}"


def _conversation_key(messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] | None) -> str:
    if not tools and all(m.keys() == {"role", "content"} for m in messages):  # most; the lengths keep turns apart
        return "turns\0" + "".join(f"{m['role']}\0{len(m['content'])}\0{m['content']}" for m in messages)
    return "messages\0" + json.dumps([tools, messages], sort_keys=True, ensure_ascii=False, default=str)
