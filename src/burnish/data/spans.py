"""Rows of extractive question answering: a question beside its context, with the place of the answer in it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data.config import ChatMode, RenderConfig, SourceConfig
from burnish.data.example import Example
from burnish.data.formats import Plan
from burnish.data.labelled import Frame, LabelledRenderer
from burnish.data.recheck import TOLERATED, squeezed
from burnish.data.render import Kind, Outcome, Rendered, Renderer
from burnish.data.rows import Read
from burnish.data.splits import Values
from burnish.data.table import TokenTable
from burnish.data.task_formats import plan_task
from burnish.data.windows import Window, settle_stride, windows

ENDS = ("start", "end")
NONE = "no answer"
SHORTEST_CONTEXT = 8
"""Tokens of a context that must be left beside the question."""
Places = list[tuple[int, int, int]]


class SpanRenderer(LabelledRenderer):
    """Question and context as a tokenizer frames a pair of texts, with the tokens where the answer begins and ends.

    ``values`` of a row are five numbers: the first and last token of the answer, both 0 where it is not in this
    window; where the context begins and ends in the row; and how many tokens of the context lie before the window.

    Args:
        tokenizer: The model's tokenizer, which must know what its tokens stand for.
        config: Length, and what to do with longer rows.
        labels: The two ends, and ``no answer`` where a training row has none.
        stride: Tokens that windows share; a quarter of a window if None.
    """

    task = "extractive-qa"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: RenderConfig,
        labels: Sequence[str],
        *,
        stride: int | None = None,
    ) -> None:
        super().__init__(tokenizer, config, labels[:2])
        self.no_answer, self.stride = NONE in labels, stride
        frame = self._double
        if not frame.middle:  # a tokenizer that keeps pairs apart by nothing: a line break does
            self._double = Frame(self._alone.prefix, self.encoder.continuations(["\n"])[0], self._alone.suffix)

    def context_places(self, examples: Sequence[Example]) -> list[Places]:
        """Tokens of the contexts: id, first character, one behind the last."""
        return self.encoder.encode_with_places([e.pair or "" for e in examples])

    def render_all(self, examples: Sequence[Example]) -> list[Outcome]:
        """Render many examples at once; each gives one row or several windows, a reason to drop it, or a fault."""
        questions = self.encoder.encode_batch([e.prompt or "" for e in examples])
        contexts = self.context_places(examples)
        return [self._cut(e, q, c) for e, q, c in zip(examples, questions, contexts, strict=True)]

    def _cut(self, example: Example, question: list[int], context: Places) -> Outcome:
        frame = self._double
        head = frame.prefix + question + frame.middle
        room = self.config.max_length - len(head) - len(frame.suffix)
        length = len(head) + len(context) + len(frame.suffix)
        if len(context) > room and self.config.on_too_long != "truncate":
            refusal = self._too_long(example, length)
            assert refusal is not None
            return refusal
        if room < min(SHORTEST_CONTEXT, len(context)):
            raise UserError(
                f"the question has {len(question)} tokens, which leaves {max(0, room)} of {self.config.max_length} for "
                "its context",
                where=example.id,
                fix="raise `data.render.max_length`, or shorten the question",
            )
        stride = settle_stride(self.stride, room, self.config.max_length) if len(context) > room else 0
        cut = windows(len(context), room, stride)
        answer = answer_tokens(example, context)
        marks = self._remarks(f"{example.prompt}{example.pair}") + ("window",) * (len(cut) > 1)
        rows = [self._window(head, context, window, answer, marks) for window in cut]
        if answer is not None and not any(row.values[1] for row in rows):
            rows = [_marked(row, "lost-answer") for row in rows]
        return tuple(rows)

    def _window(
        self, head: list[int], context: Places, window: Window, answer: tuple[int, int] | None, marks: tuple[str, ...]
    ) -> Rendered:
        ids = head + [t for t, _, _ in context[window.begin : window.end]] + self._double.suffix
        shift, first, last = len(head) - window.begin, 0, 0
        if answer is not None:
            if window.begin <= answer[0] and answer[1] < window.end:
                first, last = (place + shift for place in answer)
            else:
                marks += ("no-answer-here",)
        trained = [bool(last) and first <= i <= last for i in range(len(ids))]
        values = (first, last, len(head), len(head) + window.end - window.begin, window.begin)
        typed = ids[: len(head)] if self._double.typed else ids
        return Rendered(ids, trained, typed, [], len(ids), 0, marks, values=tuple(map(float, values)))


def _marked(row: Rendered, mark: str) -> Rendered:
    marks = (*(m for m in row.marks if m != "no-answer-here"), mark)
    return Rendered(row.input_ids, row.trained, row.prompt_ids, [], row.full_length, 0, marks, values=row.values)


def answer_tokens(example: Example, context: Places) -> tuple[int, int] | None:
    """The first and last token of the first answer, in the context; None without one.

    They are the first token that ends behind the answer's first character, and the last that begins before its end.
    """
    if not example.items:
        return None
    begin = int(example.marks[0])
    end = begin + len(example.items[0])
    first = bisect_right(context, begin, key=lambda token: token[2])
    last = bisect_left(context, end, key=lambda token: token[1]) - 1
    return (first, last) if first <= last and first < len(context) else None


@dataclass(frozen=True)
class SpanTask:
    """Learns where answers stand.

    Attributes:
        no_answer: Whether there may be none; None to find it in the training rows.
        stride: Tokens that windows share.
    """

    no_answer: bool | None = None
    stride: int | None = None

    @property
    def asked(self) -> list[str]:
        """All that decides about tokens and places."""
        return [SpanRenderer.task, str(self.no_answer), str(self.stride)]

    def label_of(self, example: Example) -> str:
        """Whether an example has an answer."""
        return "answer" if example.items else NONE

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """Which columns hold question, context and answers."""
        return plan_task(source, list(read.columns), "extractive_qa")

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """The two ends of an answer, and a third name where there may be none.

        Raises:
            UserError: No training row has an answer, or one has none although the recipe says that all do.
        """
        found = labels["train"].distinct()
        if "answer" not in found:
            fix = "give rows with `answers`, or map the column: `columns: {answers: …}`"
            raise UserError("no training row has an answer", where="data.train", fix=fix)
        missing = {part: rows for part, rows in labels.items() if NONE in rows.distinct()}
        allowed = NONE in found if self.no_answer is None else self.no_answer
        if missing and not allowed:
            part, rows = next(iter(missing.items()))
            odd = rows.at(rows.outside(["answer"]))
            why = "says that every question has one" if self.no_answer is False else "has learnt from none like it"
            raise UserError(
                f"{len(odd.codes):,} questions of {part} have no answer, and the model {why}",
                where=f"data.{part}, row {odd.names[0]}",
                fix="set `task.no_answer: true` and give such rows to training, or leave these rows out",
            )
        return (*ENDS, NONE) if allowed else ENDS

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Questions with windows of their contexts."""
        return SpanRenderer(tokenizer, config, labels, stride=self.stride)

    def look_again(self, name: str, sample: Sequence[tuple[Example, Rendered]], renderer: Renderer) -> list[Finding]:
        """Places whose tokens do not say the answer."""
        judged = [(e, row) for e, row in sample if row.values[1]]
        wrong = [e.id for e, row in judged if not _says(e, row, renderer.tokenizer)]
        if len(wrong) <= TOLERATED * len(judged):
            return []
        what = f"in {len(wrong)} of {len(judged)} {name} rows that were decoded again, the place is not the answer's"
        why = "The model would learn to point at words that are no answer."
        evidence = {"rows": len(wrong), "of": len(judged), "first": wrong[:20]}
        return [
            Finding("stop", "render.other-answer", what, wrong[0], why, "look at them: `burnish inspect`", evidence)
        ]

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Count the windows of each split that hold an answer."""
        for name, table in tables.items():
            held = int((table.values.reshape(-1, 5)[:, 1] > 0).sum()) if len(table) else 0
            splits[name]["classes"] = {"answer in the window": held, "not in the window": len(table) - held}
        held, total = splits["train"]["classes"]["answer in the window"], len(tables["train"])
        none = "questions may have no answer" if NONE in labels else "every question has an answer"
        what = f"{total:,} windows of training, of which {held:,} hold the answer; {none}"
        return [Finding("note", "data.spans", what, where="task")]


def _says(example: Example, row: Rendered, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokens between the places say the answer; one that the tokenizer does not give back is not judged."""
    first, last = int(row.values[0]), int(row.values[1])
    answer = squeezed(example.items[0])
    again = squeezed(tokenizer.decode(tokenizer.encode(example.items[0], add_special_tokens=False)))
    return again != answer or answer in squeezed(tokenizer.decode(row.input_ids[first : last + 1]))
