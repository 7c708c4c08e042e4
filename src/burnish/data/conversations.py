"""Conversations: checks of the messages format, and ShareGPT's names turned into it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from burnish.core.names import suggestion
from burnish.data.rows import describe

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")

_SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
    "function_response": "tool",
}


class Fault(Exception):
    """A value that a format refuses, before its file and line are known."""

    def __init__(self, field: str, expected: str, found: str, fix: str = "") -> None:
        self.field, self.expected, self.found, self.fix = field, expected, found, fix
        super().__init__(expected)


def messages_of(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """Check a conversation in the messages format and return it.

    A content that is a list of text parts becomes their concatenation; other parts are refused.

    Raises:
        Fault: Naming the turn and the key that is wrong.
    """
    return tuple(_checked(turn, f"{field}[{i}]", _message) for i, turn in enumerate(_turns(value, field)))


def sharegpt_of(value: Any, field: str) -> tuple[dict[str, Any], ...]:
    """Turn a ShareGPT conversation (`from` and `value`) into the messages format.

    Raises:
        Fault: Naming the turn and the key that is wrong.
    """
    return tuple(_checked(turn, f"{field}[{i}]", _sharegpt) for i, turn in enumerate(_turns(value, field)))


def tools_of(value: Any, field: str = "tools") -> tuple[dict[str, Any], ...] | None:
    """Tool descriptions: a list of mappings, or that list as JSON text; None for nothing.

    Raises:
        Fault: It is something else.
    """
    if value is None or value == "" or value == []:
        return None
    value = _from_json(value, field) if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise Fault(field, "a list of tool descriptions", describe(value))
    return tuple(_without_nothing(tool) for tool in value)


def _turns(value: Any, field: str) -> list[Any]:
    value = _from_json(value, field) if isinstance(value, str) and value.lstrip().startswith("[") else value
    if not isinstance(value, (list, tuple)):
        raise Fault(field, "a list of turns", describe(value))
    if not value:
        raise Fault(field, "at least one turn", "an empty list")
    return list(value)


def _checked(turn: Any, field: str, read: Callable[[Mapping[str, Any], str], dict[str, Any]]) -> dict[str, Any]:
    if not isinstance(turn, Mapping):
        raise Fault(field, "a turn as a mapping", describe(turn))
    return read(turn, field)


def _message(turn: Mapping[str, Any], field: str) -> dict[str, Any]:
    role = turn.get("role")
    if role not in ROLES:
        fix = suggestion(role, ROLES) if isinstance(role, str) else ""
        raise Fault(f"{field}.role", "a known role", describe(role), fix)
    message = {k: v for k, v in turn.items() if v is not None}  # columnar files fill in every absent key with null
    message["content"] = _content(turn.get("content"), f"{field}.content", optional=bool(turn.get("tool_calls")))
    if "tool_calls" in message:
        message["tool_calls"] = _tool_calls(message["tool_calls"], f"{field}.tool_calls")
        if role != "assistant":
            raise Fault(f"{field}.tool_calls", "tool calls in assistant turns only", f"one in a {role} turn")
    return message


def _content(value: Any, field: str, *, optional: bool) -> str:
    if value is None and optional:
        return ""
    if isinstance(value, list):
        if not all(isinstance(p, Mapping) and isinstance(p.get("text"), str) for p in value):
            raise Fault(field, "text parts only", describe(value), "images and sound are not supported")
        return "".join(part["text"] for part in value)
    if not isinstance(value, str):
        raise Fault(field, "text", describe(value))
    return value


def _tool_calls(value: Any, field: str) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not value:
        raise Fault(field, "a list of calls", describe(value))
    calls = []
    for number, call in enumerate(value):
        call = _without_nothing(call) if isinstance(call, Mapping) else call
        function = call.get("function", call) if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise Fault(f"{field}[{number}]", "a call with the function's name", describe(call))
        calls.append(call)
    return calls


def _sharegpt(turn: Mapping[str, Any], field: str) -> dict[str, Any]:
    speaker = turn.get("from", turn.get("role"))
    if not isinstance(speaker, str) or speaker.lower() not in _SHAREGPT_ROLES:
        fix = suggestion(speaker, _SHAREGPT_ROLES) if isinstance(speaker, str) else ""
        raise Fault(f"{field}.from", "a known speaker", describe(speaker), fix)
    value = turn.get("value", turn.get("content"))
    if not isinstance(value, str):
        raise Fault(f"{field}.value", "text", describe(value))
    if speaker.lower() != "function_call":
        return {"role": _SHAREGPT_ROLES[speaker.lower()], "content": value}
    call = _from_json(value, f"{field}.value")
    calls = call if isinstance(call, list) else [call]
    for one in calls:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise Fault(f"{field}.value", "a call with `name` and `arguments`", describe(one))
    functions = [{"type": "function", "function": one} for one in calls]
    return {"role": "assistant", "content": "", "tool_calls": functions}


def _from_json(text: str, field: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Fault(field, "valid JSON", describe(text)) from None


def _without_nothing(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _without_nothing(v) for k, v in value.items() if v is not None}
    return [_without_nothing(v) for v in value] if isinstance(value, list) else value
