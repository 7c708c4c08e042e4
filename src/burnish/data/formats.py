"""The formats of rows: which one a source has, and how its rows become examples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from burnish.core.errors import UserError
from burnish.core.names import suggestion
from burnish.data.config import ChatMode, SourceConfig
from burnish.data.conversations import Fault, messages_of, sharegpt_of, tools_of
from burnish.data.example import Example
from burnish.data.rows import BadRow, Dropped, Row, describe
from burnish.data.templates import Template, is_plain

# The published prompts of Stanford Alpaca, which its many descendants were trained with.
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)
_ALPACA_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)


@dataclass(frozen=True)
class Format:
    """A format: the columns that show it, those it can use, and how one row becomes an example."""

    needs: tuple[str, ...]
    takes: tuple[str, ...]
    convert: Callable[[Mapping[str, Any], Plan], Example | str]


@dataclass(frozen=True)
class Plan:
    """How the rows of one source are read, settled once.

    Attributes:
        format: Name in ``FORMATS``.
        why: The reason, for the user.
        chat: Whether prompts with completions become conversations.
        rename: Our field to their column.
    """

    format: str
    why: str
    chat: bool
    rename: Mapping[str, str] = field(default_factory=dict)
    prompt: Template | None = None
    completion: Template | None = None
    system: str | None = None

    @property
    def columns(self) -> list[str]:
        """The source's columns that are used."""
        templates = [t for t in (self.prompt, self.completion) if t is not None]
        names = [c for t in templates for c in t.columns]
        if len(templates) < 2:
            names += [self.rename.get(n, n) for n in FORMATS[self.format].takes]
        return list(dict.fromkeys(names))


@dataclass(frozen=True)
class Converted:
    """Examples, the rows that are wrong, and the rows without a target."""

    examples: list[Example]
    bad: list[BadRow]
    dropped: list[Dropped]


def plan_source(source: SourceConfig, names: Iterable[str], first: Mapping[str, Any], chat: ChatMode) -> Plan:
    """Decide how the rows of a source are read.

    Args:
        source: What the recipe says.
        names: The columns of all rows.
        first: The columns of the first row.
        chat: Use of the chat template.

    Raises:
        UserError: The format is not recognised, a column is not there, or the settings contradict each other.
    """
    columns = list(names)
    check_mapping(source, columns)
    renamed = set(columns) - set(source.columns.values()) | set(source.columns)
    sample = {**first, **{ours: first.get(theirs) for ours, theirs in source.columns.items()}}
    templates = {name: source_template(source, name, columns) for name in ("prompt", "completion")}
    name: str
    if source.format == "classification":
        fix = "write `task: classification` into the recipe, or set another `format`"
        raise UserError(
            "rows with labels are for a classification, and this task learns text", where=source.path, fix=fix
        )
    if source.format != "auto":
        name, why = source.format, "set in the recipe"
    elif any(templates.values()):
        name, why = "prompt_completion", "the recipe has templates"
    else:
        name, why = _detect(renamed, sample, source, columns)
    for needed in FORMATS[name].needs:
        if needed not in renamed and not templates.get(needed):
            raise UserError(
                f"format `{name}` needs the column `{needed}`",
                where=f"{source.path} has: {', '.join(columns)}",
                fix=f"set `columns: {{{needed}: THEIR_COLUMN}}`" + (", or a template" if needed in templates else ""),
            )
    talk = name in {"messages", "sharegpt"}
    if talk and chat == "never":
        fix = "set `render.chat: auto`, or map columns to `prompt` and `completion`"
        raise UserError(
            "conversations need the chat template, but `render.chat` is `never`", where=source.path, fix=fix
        )
    wrapped = talk or (chat == "always" and name != "text")
    if source.system is not None and not wrapped:
        fix = "set `render.chat: always`, or write it into the `prompt` template"
        raise UserError("`system` has a place in conversations only", where=source.path, fix=fix)
    return Plan(name, why, wrapped, source.columns, templates["prompt"], templates["completion"], source.system)


def convert(
    rows: Iterable[Row], plan: Plan, names: Mapping[str, str] | None = None, task: str | None = None
) -> Converted:
    """Turn rows into examples; wrong rows and rows without a target are collected, none is passed over.

    Args:
        rows: Rows of one source.
        plan: How they are read.
        names: Shorter names of files, for the examples' ids.
        task: The task that the source names.
    """
    shown = names or {}
    examples: list[Example] = []
    bad: list[BadRow] = []
    dropped: list[Dropped] = []
    read = FORMATS[plan.format].convert
    for row in rows:
        try:
            result = read(_View(row.fields, plan.rename) if plan.rename else row.fields, plan)
            if isinstance(result, Example):
                _refuse_half_characters(result)
        except Fault as fault:
            theirs = _their_field(fault.field, plan)
            bad.append(BadRow(row.file, row.line, theirs, fault.expected, fault.found, fault.fix))
            continue
        name = f"{shown.get(row.file, row.file)}:{row.line}"
        if isinstance(result, str):
            dropped.append(Dropped(name, result))
        else:
            examples.append(result.placed(name, row.fields, task))
    return Converted(examples, bad, dropped)


def _refuse_half_characters(example: Example) -> None:
    """JSON can spell half of a character, such as `\\ud83d` without its partner; no tokenizer takes that."""
    for name in ("prompt", "pair", "completion", "text", "messages", "tools", "items"):
        value = getattr(example, name)
        if value and not _encodes(value):
            found = "half of a character, such as `\\ud83d`"
            raise Fault(name, "whole characters", found, "write the character itself, or both halves")


def _encodes(value: Any) -> bool:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, Mapping):
        return all(_encodes(k) and _encodes(v) for k, v in value.items())
    return all(map(_encodes, value)) if isinstance(value, (list, tuple)) else True


class _View(dict[str, Any]):
    """A row under our names as well as its own."""

    def __init__(self, fields: Mapping[str, Any], rename: Mapping[str, str]) -> None:
        super().__init__(fields)
        for ours, theirs in rename.items():
            if theirs in fields:
                self[ours] = fields[theirs]
            else:
                self.pop(ours, None)


def _their_field(name: str, plan: Plan) -> str:
    stem = name.split("[")[0].split(".")[0]
    return plan.rename[stem] + name[len(stem) :] if stem in plan.rename else name


def check_mapping(source: SourceConfig, columns: Sequence[str]) -> None:
    """Refuse a mapping of a field that there is not, or to a column that there is not."""
    where = f"`columns` of {source.path}"
    ours = sorted({name for f in FORMATS.values() for name in f.takes})
    for name, theirs in source.columns.items():
        if name not in ours:
            raise UserError(
                f"`{name}` is no field that a column can be mapped to", where=where, fix=suggestion(name, ours)
            )
        if theirs not in columns:
            raise UserError(f"there is no column `{theirs}`", where=where, fix=suggestion(theirs, columns))


def source_template(source: SourceConfig, name: str, columns: Sequence[str]) -> Template | None:
    """A source's `prompt` or `completion` template, checked against its columns; None without one."""
    text = getattr(source, name)
    if text is None:
        return None
    where = f"`{name}` template of {source.path}"
    template = Template.parse(text, where=where)
    template.check(columns, where=where)
    return template


def _detect(names: set[str], first: Mapping[str, Any], source: SourceConfig, columns: Sequence[str]) -> tuple[str, str]:
    turns = next((first[n] for n in ("messages", "conversations") if first.get(n)), None)
    turn = turns[0] if isinstance(turns, (list, tuple)) and turns else {}
    speaks = isinstance(turn, Mapping) and "from" in turn
    if "messages" in names and not speaks:
        return "messages", "there is a column `messages`"
    if "conversations" in names and isinstance(turn, Mapping) and "role" in turn:
        raise UserError(
            "the column `conversations` holds turns with `role` and `content`",
            where=source.path,
            fix="set `columns: {messages: conversations}`",
        )
    if "conversations" in names or speaks:
        column = "conversations" if "conversations" in names else "messages"
        if column == "messages":
            fix = "set `columns: {conversations: messages}` and `format: sharegpt`"
            raise UserError("the column `messages` holds turns with `from` and `value`", where=source.path, fix=fix)
        return "sharegpt", "there is a column `conversations`"
    for name in ("alpaca", "prompt_completion", "question_answer", "text"):
        needs = FORMATS[name].needs
        if names.issuperset(needs):
            noun = "columns" if len(needs) > 1 else "a column"
            return name, f"there {'are' if len(needs) > 1 else 'is'} {noun} " + " and ".join(f"`{n}`" for n in needs)
    raise UserError(
        "the format is not recognised: its columns are " + (", ".join(f"`{c}`" for c in columns) or "none"),
        where=source.path,
        fix="set `prompt` and `completion` templates such as `{column}`, or map `columns` to a known format's",
    )


def text_of(row: Mapping[str, Any], name: str) -> str:
    if name not in row:
        raise Fault(name, "text", "no such column in this row")
    value = row[name]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    if value is not None and not isinstance(value, str):
        raise Fault(name, "text", describe(value))
    return value or ""


def filled(row: Mapping[str, Any], template: Template | None, name: str) -> tuple[str, bool]:
    """A column's or a template's text, and whether its columns hold anything at all."""
    if template is None:
        text = text_of(row, name)
        return text, bool(text.strip())
    for column in template.columns:
        if column not in row:
            raise Fault(column, "a value", "no such column in this row")
        if not is_plain(row[column]):
            raise Fault(column, "text or a number", describe(row[column]), "templates take plain values")
    told = not template.columns or any(str(row[c] if row[c] is not None else "").strip() for c in template.columns)
    return template.fill(row), told


def _prompt_completion(row: Mapping[str, Any], plan: Plan) -> Example | str:
    prompt, asked = filled(row, plan.prompt, "prompt")
    completion, answered = filled(row, plan.completion, "completion")
    if not asked:
        return f"the prompt is empty (column {_named(plan.prompt, 'prompt', plan)})"
    if not answered:
        return f"there is no target: the completion is empty (column {_named(plan.completion, 'completion', plan)})"
    return with_answer(prompt, completion, plan.system, plan)


def _classified(row: Mapping[str, Any], plan: Plan) -> Example | str:
    text, told = filled(row, plan.prompt, "text")
    label, known = filled(row, plan.completion, "label")
    pair = text_of(row, "text_pair") if "text_pair" in row else None
    if not told:
        return f"the text is empty (column {_named(plan.prompt, 'text', plan)})"
    if not known:
        return f"there is no target: the label is empty (column {_named(plan.completion, 'label', plan)})"
    return Example("", prompt=text, completion=label.strip(), pair=pair)


def _named(template: Template | None, name: str, plan: Plan) -> str:
    columns = template.columns if template else (plan.rename.get(name, name),)
    return ", ".join(f"`{c}`" for c in columns)


def with_answer(prompt: str, completion: str, system: str | None, plan: Plan) -> Example:
    if not plan.chat:
        return Example("", prompt=prompt, completion=completion)
    turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
    return Example("", messages=tuple(_with_system(turns, system)))


def _alpaca(row: Mapping[str, Any], plan: Plan) -> Example | str:
    instruction, output = text_of(row, "instruction"), text_of(row, "output")
    given = text_of(row, "input") if "input" in row else ""
    system = text_of(row, "system") if "system" in row else ""
    if not instruction.strip() and not given.strip():
        return "the prompt is empty (column `instruction`)"
    if not output.strip():
        return "there is no target: the completion is empty (column `output`)"
    if (system or row.get("history")) and not plan.chat:
        column = "system" if system else "history"
        raise Fault(
            column, "nothing", describe(row[column]), "set `render.chat: always`: the plain prompt has no place"
        )
    if not plan.chat:
        prompt = (_ALPACA_INPUT if given.strip() else _ALPACA).format(instruction=instruction, input=given)
        return with_answer(prompt, output, None, plan)
    ask = f"{instruction}\n\n{given}" if instruction.strip() and given.strip() else instruction or given
    turns = [*_history(row.get("history")), {"role": "user", "content": ask}, {"role": "assistant", "content": output}]
    return Example("", messages=tuple(_with_system(turns, system or plan.system)))


def _history(value: Any) -> list[dict[str, Any]]:
    if not value:
        return []
    pairs = value if isinstance(value, list) else [value]
    if not all(isinstance(p, (list, tuple)) and len(p) == 2 and all(isinstance(t, str) for t in p) for p in pairs):
        raise Fault("history", "a list of pairs of texts", describe(value))
    return [{"role": r, "content": t} for pair in pairs for r, t in zip(("user", "assistant"), pair, strict=True)]


def _messages(row: Mapping[str, Any], plan: Plan) -> Example | str:
    return _conversation(row, plan, messages_of(_value(row, "messages"), "messages"))


def _sharegpt(row: Mapping[str, Any], plan: Plan) -> Example | str:
    return _conversation(row, plan, sharegpt_of(_value(row, "conversations"), "conversations"))


def _value(row: Mapping[str, Any], name: str) -> Any:
    if name not in row:
        raise Fault(name, "a list of turns", "no such column in this row")
    return row[name]


def _conversation(row: Mapping[str, Any], plan: Plan, turns: tuple[dict[str, Any], ...]) -> Example | str:
    system = text_of(row, "system") if "system" in row else ""
    messages = tuple(_with_system(list(turns), system or plan.system))
    if not any(m["role"] == "assistant" and (m["content"].strip() or m.get("tool_calls")) for m in messages):
        return "there is no target: no assistant turn says anything"
    return Example("", messages=messages, tools=tools_of(row.get("tools")))


def _with_system(turns: list[dict[str, Any]], system: str | None) -> list[dict[str, Any]]:
    if not system or turns[0]["role"] in {"system", "developer"}:
        return turns
    return [{"role": "system", "content": system}, *turns]


def _plain(row: Mapping[str, Any], plan: Plan) -> Example | str:
    text = text_of(row, "text")
    return Example("", text=text) if text.strip() else "the text is empty (column `text`)"


FORMATS: dict[str, Format] = {
    "messages": Format(("messages",), ("messages", "tools", "system"), _messages),
    "sharegpt": Format(("conversations",), ("conversations", "tools", "system"), _sharegpt),
    "alpaca": Format(("instruction", "output"), ("instruction", "input", "output", "system", "history"), _alpaca),
    "prompt_completion": Format(("prompt", "completion"), ("prompt", "completion"), _prompt_completion),
    "text": Format(("text",), ("text",), _plain),
    "classification": Format(("text", "label"), ("text", "text_pair", "label"), _classified),
}
