"""How rows become examples where a head learns more than one class a row, and where answers have a context."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from burnish.core.errors import UserError
from burnish.core.names import nearest
from burnish.data.config import SourceConfig
from burnish.data.conversations import Fault
from burnish.data.example import Example
from burnish.data.formats import (
    FORMATS,
    Format,
    Plan,
    check_mapping,
    filled,
    source_template,
    text_of,
    with_answer,
)
from burnish.data.rows import describe

CONTEXT_PROMPT = "Context:\n{context}\n\nQuestion: {question}\nAnswer:"
PLAIN_PROMPT = "Question: {question}\nAnswer:"
"""How a question and its context stand apart in what is given; a `prompt` template of the recipe replaces them."""


def plan_task(source: SourceConfig, columns: Sequence[str], name: str) -> Plan:
    """Decide how the rows of a source are read for a task with a format of its own.

    Args:
        source: What the recipe says.
        columns: The columns of all rows.
        name: The task's format.

    Raises:
        UserError: A column is not there, or the source is set to another format.
    """
    check_mapping(source, columns)
    if source.format not in ("auto", name):
        fix = f"leave `format` to `auto`, and map the columns: `columns: {{{FORMATS[name].needs[0]}: …}}`"
        raise UserError(f"format `{source.format}` holds no rows for this task", where=source.path, fix=fix)
    present = set(columns) - set(source.columns.values()) | set(source.columns)
    text = source_template(source, "prompt", columns) if "text" in FORMATS[name].needs else None
    unused = [n for n in ("prompt", "completion") if getattr(source, n) is not None and not (n == "prompt" and text)]
    if unused:
        fix = f"map columns in its place: `columns: {{{FORMATS[name].needs[-1]}: THEIR_COLUMN}}`"
        raise UserError(f"a `{unused[0]}` template has no place in this task", where=source.path, fix=fix)
    for needed in FORMATS[name].needs:
        if needed not in present and not (needed == "text" and text):
            near = nearest(needed, columns)
            raise UserError(
                f"this task needs a column `{needed}`; there is none",
                where=f"{source.path} has: {', '.join(columns)}",
                fix=f"map it: `columns: {{{needed}: {near[0] if near else 'THEIR_COLUMN'}}}`",
            )
    noun = " and ".join(f"`{n}`" for n in FORMATS[name].needs)
    return Plan(name, f"the task reads {noun}", False, source.columns, text)


def _list_of(row: Mapping[str, Any], name: str, what: str) -> list[Any]:
    """A column that holds a list; a table file may hold it as JSON text."""
    if name not in row:
        raise Fault(name, f"a list of {what}", "no such column in this row")
    value = row[name]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError:
            raise Fault(name, f"a list of {what}", describe(value)) from None
    if not isinstance(value, (list, tuple)):
        raise Fault(name, f"a list of {what}", describe(value))
    return list(value)


def _tagged(row: Mapping[str, Any], plan: Plan) -> Example | str:
    words, tags = _list_of(row, "tokens", "words"), _list_of(row, "ner_tags", "tags, one a word")
    for name, values in (("tokens", words), ("ner_tags", tags)):
        odd = next((v for v in values if isinstance(v, bool) or not isinstance(v, (str, int))), None)
        empty = next((v for v in values if isinstance(v, str) and not v.strip()), None)
        if odd is not None or empty is not None:
            raise Fault(name, "words" if name == "tokens" else "names or numbers of tags", describe(odd or empty))
    if len(words) != len(tags):
        raise Fault("ner_tags", f"{len(words)} tags, one a word", f"{len(tags)} tags")
    if not words:
        return "the text is empty (column `tokens`)"
    items, marks = tuple(str(w) for w in words), tuple(str(t).strip() for t in tags)
    return Example("", prompt=" ".join(items), completion=" ".join(marks), items=items, marks=marks)


def _spanned(row: Mapping[str, Any], plan: Plan) -> Example | str:
    question, context = text_of(row, "question"), text_of(row, "context")
    for name, text in (("question", question), ("context", context)):
        if not text.strip():
            return f"the {name} is empty (column `{plan.rename.get(name, name)}`)"
    texts, starts = _answers(row, placed=True)
    for text, start in zip(texts, starts, strict=True):
        _refuse_misplaced(text, start, context, "answers" if "answers" in row else "answer_start")
    return Example("", prompt=question, pair=context, completion=texts[0] if texts else "", items=texts, marks=starts)


def _refuse_misplaced(text: str, start: int, context: str, name: str) -> None:
    there = context[start : start + len(text)] if start >= 0 else ""
    if there == text:
        return
    elsewhere = context.find(text)
    found = f"`{there[:40]}` there" if there else f"a context of {len(context)} characters"
    fix = f"it stands at character {elsewhere}" if elsewhere >= 0 else "the context does not hold this text at all"
    raise Fault(name, f"`{text[:40]}` at character {start} of the context (counted from 0)", found, fix)


def _answers(row: Mapping[str, Any], *, placed: bool) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Texts and places of the answers: SQuAD's `answers`, a list of its older form, or `answer` and `answer_start`."""
    given = row.get("answers")
    if isinstance(given, str) and given.lstrip()[:1] in ("{", "["):
        try:
            given = json.loads(given)
        except ValueError:
            raise Fault("answers", "`{text: […], answer_start: […]}`", describe(given)) from None
    if given is None and "answer" in row:
        text = text_of(row, "answer")
        given = [{"text": text, "answer_start": row.get("answer_start")}] if text.strip() else []
    elif given is None:
        raise Fault("answers", "`{text: […], answer_start: […]}`, or a column `answer`", describe(given))
    if isinstance(given, Mapping):
        lists = [given.get(k) for k in ("text", "answer_start")]
        texts, starts = ([x] if isinstance(x, (str, int)) else list(x or ()) for x in lists)
        if placed and len(texts) != len(starts):
            raise Fault("answers", "as many places as texts", f"{len(texts)} texts and {len(starts)} places")
        given = [{"text": t, "answer_start": s} for t, s in zip(texts, starts or [0] * len(texts), strict=False)]
    if isinstance(given, str):
        given = [given] if given.strip() else []
    if not isinstance(given, (list, tuple)):
        raise Fault("answers", "`{text: […], answer_start: […]}`", describe(given))
    pairs = [(a, 0) if isinstance(a, str) else (a.get("text"), a.get("answer_start")) for a in given]
    for text, start in pairs:
        if not isinstance(text, str) or not text.strip():
            raise Fault("answers", "texts that are not empty", describe(text), "leave the list empty for no answer")
        if placed and (isinstance(start, bool) or not isinstance(start, int)):
            raise Fault("answer_start", "the place of the answer's first character", describe(start))
    return tuple(t for t, _ in pairs), tuple(s if isinstance(s, int) else 0 for _, s in pairs)


def _question_answer(row: Mapping[str, Any], plan: Plan) -> Example | str:
    """Question, context and answer apart; ``items`` are all right answers and ``marks`` the context."""
    question = text_of(row, "question")
    context = text_of(row, "context") if "context" in row else ""
    if not question.strip():
        return f"the prompt is empty (column `{plan.rename.get('question', 'question')}`)"
    texts, _ = _answers(row, placed=False)
    if not texts:
        return "there is no target: the row has no answer"
    form = CONTEXT_PROMPT if context.strip() else PLAIN_PROMPT
    prompt = plan.prompt.fill(row) if plan.prompt else form.format(question=question.strip(), context=context.strip())
    completion = texts[0].strip() if plan.chat else f" {texts[0].strip()}"
    made = with_answer(prompt, completion, plan.system, plan)
    object.__setattr__(made, "items", texts)  # it was just made and is not shared yet
    object.__setattr__(made, "marks", (context,))
    return made


def _several(row: Mapping[str, Any], plan: Plan) -> Example | str:
    text, told = filled(row, plan.prompt, "text")
    if not told:
        return "the text is empty (column `text`)"
    names = _list_of(row, "labels", "classes")
    odd = next((n for n in names if isinstance(n, (bool, float)) or not isinstance(n, (str, int))), None)
    if odd is not None or any(not str(n).strip() for n in names):
        raise Fault("labels", "names of classes", describe(odd if odd is not None else ""))
    items = tuple(dict.fromkeys(str(n).strip() for n in names))
    return Example("", prompt=text, completion=", ".join(items), pair=_pair(row), items=items)


def _scored(row: Mapping[str, Any], plan: Plan) -> Example | str:
    text, told = filled(row, plan.prompt, "text")
    if not told:
        return "the text is empty (column `text`)"
    value = row.get("score")
    if value is None or (isinstance(value, str) and not value.strip()):
        return "there is no target: the score is empty (column `score`)"
    try:
        number = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise Fault("score", "a finite number", describe(value))
    return Example("", prompt=text, completion=repr(number), pair=_pair(row))


def _preferred(row: Mapping[str, Any], plan: Plan) -> Example | str:
    prompt = text_of(row, "prompt") if "prompt" in row else ""
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not (prompt + text).strip():
            return f"the {name} text is empty (column `{plan.rename.get(name, name)}`)"
    if chosen == rejected:
        return "both texts are equal, so neither is preferred"
    return Example("", prompt=prompt, pair=chosen, completion=rejected)


def _pair(row: Mapping[str, Any]) -> str | None:
    return text_of(row, "text_pair") if "text_pair" in row else None


_ANSWERED = ("question", "context", "answers", "answer", "answer_start")
FORMATS |= {
    "token_classification": Format(("tokens", "ner_tags"), ("tokens", "ner_tags"), _tagged),
    "extractive_qa": Format(("question", "context"), _ANSWERED, _spanned),
    "question_answer": Format(("question", "context"), _ANSWERED, _question_answer),
    "multi_label": Format(("text", "labels"), ("text", "text_pair", "labels"), _several),
    "regression": Format(("text", "score"), ("text", "text_pair", "score"), _scored),
    "ranking": Format(("chosen", "rejected"), ("prompt", "chosen", "rejected"), _preferred),
}
