"""Conversations through the tokenizer's chat template, and where in the rendered text the assistant speaks.

A template is a program, and most do not say which of their output is the assistant's. The spans are found in the
rendered text itself: the conversation is rendered once as it is, and once with every assistant content replaced by a
mark of its own. Where the first text equals the second with the contents put back in place of the marks (a template
may strip them), each span is certain. Where it does not, the row is refused rather than guessed at. Templates with
`{% generation %}` markers state their spans, and these are taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from burnish.core.errors import UserError
from burnish.data.conversations import Fault
from burnish.data.tokens import Encoder

Message = Mapping[str, Any]
Tools = Sequence[Mapping[str, Any]] | None

_MARKERS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ADVICE = "give a `chat_template` with `{% generation %}` markers around what the assistant says"


@dataclass(frozen=True, slots=True)
class Spoken:
    """A rendered conversation and its targets.

    Attributes:
        text: What the template printed, with a BOS if it prints one.
        spans: Targets in characters, one per assistant turn, each with its turn-end token.
        complete: The last span ends with a turn-end token, or further turns follow; else an EOS is to be added.
        prompt_differs: The template's own generation prompt is not what precedes the last target here.
    """

    text: str
    spans: list[tuple[int, int]]
    complete: bool
    prompt_differs: bool


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        tokenizer: It must have a chat template.
        encoder: The same tokenizer, for its special tokens.

    Raises:
        UserError: The tokenizer has no chat template, or the template cannot render or hides what the assistant says.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> None:
        self.tokenizer = tokenizer
        self.name = f"chat template of {tokenizer.name_or_path or 'the tokenizer'}"
        if not getattr(tokenizer, "chat_template", None):
            raise UserError(
                "the tokenizer has no chat template, but the rows are conversations",
                where=self.name,
                fix="set `model.chat_template` to a Jinja file, or map the columns to `prompt` and `completion`",
            )
        self._end = re.compile(r"(\s*)(" + (encoder.special.pattern or r"(?!)") + ")")
        self._eos = tokenizer.eos_token
        self._shapes: dict[tuple[tuple[str, ...], bool], _Shape | None] = {}
        self.turn_ends, self.opening = self._probe()

    def render(self, messages: Sequence[Message], tools: Tools = None, *, generate: bool = False) -> str:
        """What the template prints.

        Args:
            messages: The conversation.
            tools: Tool descriptions.
            generate: Open the next assistant turn at the end.

        Raises:
            Fault: The template refuses the conversation.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(m) for m in messages],
                tools=[dict(t) for t in tools] if tools else None,
                tokenize=False,
                add_generation_prompt=generate,
            )
        except (TemplateError, TypeError, ValueError, KeyError, IndexError) as error:
            raise Fault("messages", f"turns that the {self.name} accepts", f"its error: {error}") from None
        assert isinstance(text, str)
        return text

    def prompt(self, messages: Sequence[Message], tools: Tools = None) -> str:
        """The text that a model is given to speak next, exactly as it stands before a target in training."""
        return self.render(messages, tools, generate=True) + self.opening

    def spoken(self, messages: Sequence[Message], tools: Tools = None, *, last_only: bool = False) -> Spoken:
        """Render a conversation and find the targets.

        Raises:
            Fault: The template refuses the conversation, or a target cannot be found with certainty.
        """
        text = self.render(messages, tools)
        if not tools and all(m.keys() == {"role", "content"} for m in messages):
            known = self._shape(tuple(m["role"] for m in messages), last_only)
            spoken = known.fit(text, [m["content"] for m in messages]) if known else None
            if spoken is not None:
                return spoken
        return self._spoken(messages, tools, text, last_only)

    def _shape(self, roles: tuple[str, ...], last_only: bool) -> _Shape | None:
        """How the template prints this sequence of roles, found once with marks for contents; None if not certain."""
        key = (roles, last_only)
        if key not in self._shapes:
            marks = _marks_for("", len(roles))
            talk = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
            try:
                spoken = self._spoken(talk, None, self.render(talk), last_only)
                self._shapes[key] = _Shape.of(spoken, marks)
            except Fault:
                self._shapes[key] = None
        return self._shapes[key]

    def _spoken(self, messages: Sequence[Message], tools: Tools, text: str, last_only: bool) -> Spoken:
        turns = [i for i, m in enumerate(messages) if m["role"] == "assistant"]
        found = self._marked_spans(messages, tools, text) if self._marks(tools) else None
        if found is None:
            found = self._derived_spans(messages, tools, text, turns)
        elif not found:
            raise Fault("messages", "an assistant turn", f"the {self.name} marks none in this row")
        aligned = len(found) == len(turns)  # a template may mark several stretches in one turn
        differs = False
        spans: list[tuple[int, int]] = []
        complete = True
        for number, (start, end) in enumerate(found):
            last = number == len(found) - 1
            if last_only and not last:
                continue
            if aligned:
                start, differs = self._begin(messages[: turns[number]], tools, text, start, end)
            end, ended = self._finish(text, start, end)
            if last and not ended and messages[-1]["role"] == "assistant":
                end, complete = len(text), False
            spans.append((start, end))
        return Spoken(text, spans, complete, differs)

    def _marks(self, tools: Tools) -> bool:
        return bool(_MARKERS.search(self._source(tools)))

    def _source(self, tools: Tools) -> str:
        return self.tokenizer.get_chat_template(None, [dict(t) for t in tools] if tools else None)

    def _marked_spans(self, messages: Sequence[Message], tools: Tools, text: str) -> list[tuple[int, int]] | None:
        """The spans that the template's own markers state; None if they print something else than it does."""
        given: dict[str, Any] = dict(self.tokenizer.special_tokens_map)
        result: Any = render_jinja_template(  # its annotation says str; with the mask asked for it returns both
            conversations=[[dict(m) for m in messages]],
            tools=[dict(t) for t in tools] if tools else None,
            chat_template=self._source(tools),
            return_assistant_tokens_mask=True,
            add_generation_prompt=False,
            **given,
        )
        rendered, spans = result
        return [(int(a), int(b)) for a, b in spans[0] if b > a] if rendered[0] == text else None

    def _derived_spans(
        self, messages: Sequence[Message], tools: Tools, text: str, turns: Sequence[int]
    ) -> list[tuple[int, int]]:
        plain = [i for i in turns if not messages[i].get("tool_calls")]
        spans = dict(zip(plain, self._by_marks(messages, tools, text, plain), strict=True))
        for turn in turns:
            if turn not in spans:
                spans[turn] = self._by_prefixes(messages, tools, text, turn)
        return [spans[turn] for turn in turns]

    def _by_marks(
        self, messages: Sequence[Message], tools: Tools, text: str, turns: Sequence[int]
    ) -> list[tuple[int, int]]:
        """Spans by rendering the conversation again with a mark in place of each content."""
        if not turns:
            return []
        marks = _marks_for(text, len(turns))
        changed = [dict(m) for m in messages]
        for mark, turn in zip(marks, turns, strict=True):
            changed[turn]["content"] = mark
        frame = self.render(changed, tools)
        position, spans = 0, []
        for number, (mark, turn) in enumerate(zip(marks, turns, strict=True)):
            pieces = frame.split(mark)
            if len(pieces) != 2:
                printed = "does not print it" if len(pieces) < 2 else f"prints it {len(pieces) - 1} times"
                raise self._uncertain(turn, f"the {self.name} {printed}")
            before, frame = pieces
            if not text.startswith(before, position):
                raise self._uncertain(turn, f"the {self.name} prints other text around it, depending on it")
            start = position + len(before)
            following = frame.split(marks[number + 1])[0] if number + 1 < len(marks) else frame
            final = number + 1 == len(marks)
            end = _match(text, start, messages[turn].get("content") or "", following, final)
            if end is None:
                raise self._uncertain(turn, f"the {self.name} prints it in another form")
            spans.append((start, end))
            position = end
        return spans

    def _by_prefixes(self, messages: Sequence[Message], tools: Tools, text: str, turn: int) -> tuple[int, int]:
        """The span of a turn with tool calls, between the conversation before it and the conversation up to it."""
        before = self.render(messages[:turn], tools, generate=True)
        upto = self.render(messages[: turn + 1], tools)
        if not text.startswith(before) or not text.startswith(upto) or len(upto) <= len(before):
            raise self._uncertain(turn, f"the {self.name} prints the tool calls in another form once turns follow")
        ends = [m for m in self._end.finditer(text, len(before), len(upto)) if m.group(2) in self.turn_ends]
        return len(before), ends[-1].start() if ends else len(upto)

    def _begin(self, before: Sequence[Message], tools: Tools, text: str, start: int, end: int) -> tuple[int, bool]:
        """Where the model has to speak: behind the generation prompt, if that is how the text begins."""
        if not before:
            return start, False
        try:
            prompt = self.render(before, tools, generate=True)
        except Fault:
            return start, True
        if not text.startswith(prompt) or len(prompt) > end:
            return start, True
        if len(prompt) < start and text[len(prompt) : start].strip() and prompt == self.render(before, tools):
            return start, False  # the template opens no turn: what it prints before the content is given, not learnt
        return len(prompt), False

    def _finish(self, text: str, start: int, end: int) -> tuple[int, bool]:
        """The end of a span with its turn-end token, and whether there is one."""
        said = text[start:end].rstrip()  # markers may enclose the turn-end token and the line end behind it
        if any(said.endswith(name) for name in self.turn_ends):
            return end, True
        found = self._end.match(text, end)
        if found and found.group(2) in self.turn_ends:
            return found.end(), True
        return end, False

    def _probe(self) -> tuple[frozenset[str], str]:
        """The turn-end tokens, and the opening that a template without a generation prompt leaves out.

        A special token behind the last assistant turn ends it. Behind an earlier one it might open the next turn, so
        it counts only if it ends the last turn too, or stands behind a user's content as well.
        """
        user, first, again, last = _marks_for("", 4)
        roles = ("user", "assistant", "user", "assistant")
        talk = [{"role": r, "content": c} for r, c in zip(roles, (user, first, again, last), strict=True)]
        try:
            text = self.render(talk)
            prompt = self.render(talk[:3], generate=True)
            bare = self.render(talk[:3])
        except Fault:  # a template with other demands on its turns; its rows are tried one by one
            return frozenset({self._eos} if self._eos else ()), ""
        spans = self._marked_spans(talk, None, text) if self._marks(None) else None
        if spans is None or len(spans) != 2:
            if any(text.count(mark) != 1 for mark in (first, last)):
                if self._marks(None):
                    return frozenset({self._eos} if self._eos else ()), ""
                raise UserError(
                    "the loss mask is uncertain: what the assistant says is not found in what the chat template prints",
                    where=self.name,
                    fix=_ADVICE,
                )
            spans = [(text.index(mark), text.index(mark) + len(mark)) for mark in (first, last)]
        early, final = (self._end_of(text, *span) for span in spans)
        asked = self._end_of(text, text.index(user), text.index(user) + len(user)) if user in text else None
        ends = {final} | ({early} if early == asked else set())
        opening = ""
        if prompt == bare and text.startswith(prompt):
            gap = text[len(prompt) : spans[1][0]]
            opening = gap if gap.strip() else ""
        return frozenset(e for e in ends if e), opening

    def _end_of(self, text: str, start: int, end: int) -> str | None:
        """The special token that a span ends with (markers may enclose it), or that stands behind it."""
        inside = [m for m in self._end.finditer(text, start, end) if not text[m.end() : end].strip()]
        found = inside[-1] if inside else self._end.match(text, end)
        return found.group(2) if found else None

    def _uncertain(self, turn: int, found: str) -> Fault:
        return Fault(f"messages[{turn}].content", "a text that the chat template prints as it is", found, _ADVICE)


@dataclass(frozen=True)
class _Shape:
    """The frame that a template prints around the contents of one sequence of roles.

    A row that consists of this frame and its own contents has its targets where the frame has them, so it needs no
    second rendering.

    Attributes:
        frame: Texts before, between and after the contents.
        spans: For each target its turn, and how far it reaches before and behind that turn's content.
    """

    frame: list[str]
    spans: list[tuple[int, int, int]]
    complete: bool
    prompt_differs: bool

    @classmethod
    def of(cls, spoken: Spoken, marks: Sequence[str]) -> _Shape | None:
        """The shape of a conversation whose contents are ``marks``; None if a mark is missing, or a target has none."""
        if any(spoken.text.count(mark) != 1 for mark in marks):
            return None
        places = [spoken.text.index(mark) for mark in marks]
        frame, last = [], 0
        for place, mark in zip(places, marks, strict=True):
            if place < last:
                return None
            frame.append(spoken.text[last:place])
            last = place + len(mark)
        frame.append(spoken.text[last:])
        spans = []
        for start, end in spoken.spans:
            inside = [i for i, p in enumerate(places) if start <= p and p + len(marks[i]) <= end]
            if len(inside) != 1:
                return None
            turn = inside[0]
            spans.append((turn, places[turn] - start, end - places[turn] - len(marks[turn])))
        return cls(frame, spans, spoken.complete, spoken.prompt_differs)

    def fit(self, text: str, contents: Sequence[str]) -> Spoken | None:
        """The targets in ``text`` if it is this frame with these contents; else None."""
        if not text.startswith(self.frame[0]):
            return None
        places, start = [], len(self.frame[0])
        for number, content in enumerate(contents):
            following = self.frame[number + 1]
            end = _match(text, start, content, following, number + 1 == len(contents))
            if end is None:
                return None
            places.append((start, end))
            start = end + len(following)
        spans = [(places[turn][0] - before, places[turn][1] + behind) for turn, before, behind in self.spans]
        return Spoken(text, spans, self.complete, self.prompt_differs)


def _marks_for(text: str, count: int) -> list[str]:
    """Marks that do not occur in ``text``; mixed letters, so that a template that changes case shows."""
    salt = 0
    while f"Qz{salt}Xm" in text:
        salt += 1
    return [f"Qz{salt}Xm{number}wV" for number in range(count)]


def _match(text: str, start: int, content: str, following: str, final: bool) -> int | None:
    """Where the content ends in ``text``, given the text that must follow it; None if it is not there."""
    for form in dict.fromkeys((content, content.strip(), content.lstrip(), content.rstrip())):
        end = start + len(form)
        fits = text.startswith(form, start) and text.startswith(following, end)
        if fits and (not final or end + len(following) == len(text)):
            return end
    return None
