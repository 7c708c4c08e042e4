"""Examples to token ids with a loss mask that is certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.data.chat import ChatTemplate
from burnish.data.config import RenderConfig
from burnish.data.conversations import Fault
from burnish.data.example import Example
from burnish.data.rows import Dropped
from burnish.data.tokens import Cut, Encoder
from burnish.data.truncate import cut_pair, cut_row

Kind = Literal["causal", "seq2seq", "encoder"]


@dataclass(frozen=True, slots=True)
class Rendered:
    """One example as tokens.

    Attributes:
        input_ids: The row; of an encoder-decoder, the encoder's input.
        trained: Whether a token of ``input_ids`` carries loss; its first never does, for nothing predicts it. All
            False for an encoder-decoder.
        prompt_ids: What generation is given: everything before the last target.
        target_ids: Of an encoder-decoder, what the decoder has to write; all of it carries loss. Else empty.
        full_length: Tokens before anything was cut.
        lost_targets: Trained tokens that were cut off.
        marks: What happened on the way: keys of ``burnish.data.findings.ROW_MARKS``.
        label: Number of the row's class, of a classification.
        token_labels: Number of each token's class, -100 for none, of a token classification.
        values: Numbers that a head is to give for the row, or that say where; as many for every row of a task.
    """

    input_ids: list[int]
    trained: list[bool]
    prompt_ids: list[int]
    target_ids: list[int]
    full_length: int
    lost_targets: int = 0
    marks: tuple[str, ...] = ()
    label: int | None = None
    token_labels: tuple[int, ...] = ()
    values: tuple[float, ...] = ()

    @property
    def truncated(self) -> bool:
        """Whether anything was cut."""
        return len(self.input_ids) + len(self.target_ids) < self.full_length

    @property
    def n_trained(self) -> int:
        """Tokens that carry loss."""
        return sum(self.trained) + len(self.target_ids)


Windows = tuple[Rendered, ...]
"""One example as several rows: windows of a text that is longer than a row may be."""
Outcome = Rendered | Windows | Dropped | Fault


@dataclass(frozen=True, slots=True)
class _Script:
    """A text to tokenise: its targets in characters, and whether an EOS is to be added behind the last."""

    text: str
    spans: list[tuple[int, int]]
    add_eos: bool
    marks: tuple[str, ...]
    left: bool  # where to cut if it is too long: before the target, or at the end

    @property
    def borders(self) -> list[int]:
        """Ascending places where a target begins or ends, within the text."""
        places = sorted({p for span in self.spans for p in span})
        return [p for p in places if 0 < p < len(self.text)]


class Renderer:
    """Turns examples into tokens for one tokenizer.

    Args:
        tokenizer: The model's tokenizer, with its chat template.
        config: Length, mask and use of the chat template.
        kind: ``causal``, or ``seq2seq`` for an encoder-decoder.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind = "causal") -> None:
        self.tokenizer, self.config, self.kind = tokenizer, config, kind
        self.encoder = Encoder(tokenizer)
        self._template: ChatTemplate | None = None
        if kind == "causal" and self.encoder.eos is None:
            raise UserError(
                "the tokenizer has no end-of-sequence token", fix="set `eos_token` in its tokenizer_config.json"
            )

    @property
    def template(self) -> ChatTemplate:
        """The chat template.

        Raises:
            UserError: The tokenizer has none, or what the assistant says cannot be found in what it prints.
        """
        if self._template is None:
            self._template = ChatTemplate(self.tokenizer, self.encoder)
        return self._template

    def render(self, example: Example) -> Rendered:
        """Render one example.

        Raises:
            UserError: The example cannot be rendered, its mask is not certain, or no token of it would carry loss.
        """
        outcome = self.render_all([example])[0]
        if isinstance(outcome, Fault):
            what = f"field `{outcome.field}`: expected {outcome.expected}, found {outcome.found}"
            raise UserError(what, where=example.id, fix=outcome.fix)
        if isinstance(outcome, Dropped):
            raise UserError(outcome.reason, where=example.id)
        return outcome[0] if isinstance(outcome, tuple) else outcome

    def render_all(self, examples: Sequence[Example]) -> list[Outcome]:
        """Render many examples at once; each gives tokens, a reason to drop it, or a fault."""
        return self._pairs(examples) if self.kind == "seq2seq" else self._rows(examples)

    def prompt_ids(
        self, prompt: str | Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None
    ) -> list[int]:
        """Token ids of a prompt as the model saw prompts in training: a text, or a conversation to be continued.

        Raises:
            UserError: The chat template refuses the conversation.
        """
        if isinstance(prompt, str):
            if self.kind == "seq2seq":
                return list(self.tokenizer(prompt, verbose=False)["input_ids"])
            return self._with_prefix(self.encoder.encode(prompt))
        try:
            return self._with_prefix(self.encoder.encode(self.template.prompt(prompt, tools)))
        except Fault as fault:
            raise UserError(
                f"expected {fault.expected}, found {fault.found}", where=fault.field, fix=fault.fix
            ) from None

    def _rows(self, examples: Sequence[Example]) -> list[Outcome]:
        scripts: list[_Script | Fault] = [self._script(e) for e in examples]
        ready = [s for s in scripts if isinstance(s, _Script)]
        cuts = iter(self.encoder.cut([s.text for s in ready], [s.borders for s in ready]))
        return [
            s if isinstance(s, Fault) else self._assemble(e, s, next(cuts))
            for e, s in zip(examples, scripts, strict=True)
        ]

    def _script(self, example: Example) -> _Script | Fault:
        if example.messages is not None:
            try:
                return self._conversation(example)
            except Fault as fault:
                return fault
        if example.text is not None:
            return _Script(example.text, [(0, len(example.text))], True, self._remarks(example.text), False)
        text = f"{example.prompt}{example.completion}"
        span = (len(example.prompt or ""), len(text))
        return _Script(text, [span], True, self._remarks(text), True)

    def _conversation(self, example: Example) -> _Script:
        last = self.config.train_on == "last"
        spoken = self.template.spoken(example.messages or (), example.tools, last_only=last)
        marks = ["prompt-differs"] * spoken.prompt_differs + ["eos-added"] * (not spoken.complete)
        if any(self.encoder.special.search(m.get("content") or "") for m in example.messages or ()):
            marks.append("special-text")
        add_eos = not spoken.complete
        return _Script(spoken.text, spoken.spans, add_eos, tuple(marks), len(spoken.spans) == 1)

    def _remarks(self, text: str) -> tuple[str, ...]:
        if not self.encoder.special.search(text):
            return ()
        bos = self.tokenizer.bos_token
        return ("special-text", "bos-in-text") if bos and text.startswith(bos) else ("special-text",)

    def _assemble(self, example: Example, script: _Script, cut: Cut) -> Outcome:
        edges = [0, *script.borders]
        targets = {start for start, end in script.spans if end > start}
        ids: list[int] = []
        trained: list[bool] = []
        prompt, last = 0, max(targets, default=len(script.text))
        for edge, piece in zip(edges, cut.pieces, strict=True):
            if edge == last:
                prompt = len(ids)
            ids += piece
            trained += [edge in targets or self.config.train_on == "all"] * len(piece)
        if script.add_eos and self.encoder.eos is not None and (not ids or ids[-1] != self.encoder.eos):
            ids.append(self.encoder.eos)
            trained.append(True)
        body = self._with_prefix(ids)
        added = len(body) - len(ids)
        head = len(self.encoder.prefix) if body[: len(self.encoder.prefix)] == self.encoder.prefix else 0
        trained = [False] * added + trained
        if trained:
            trained[0] = False
        marks = script.marks + (("apart",) if cut.apart else ())
        return self._fit(example, body, trained, prompt + added, head, script.left, marks)

    def _with_prefix(self, ids: list[int]) -> list[int]:
        """The ids behind the tokenizer's own BOS, which a template or a text may have printed already."""
        prefix = self.encoder.prefix
        return ids if not prefix or ids[: len(prefix)] == prefix else prefix + ids

    def _fit(
        self,
        example: Example,
        ids: list[int],
        trained: list[bool],
        prompt: int,
        head: int,
        left: bool,
        marks: tuple[str, ...],
    ) -> Outcome:
        limit, length = self.config.max_length, len(ids)
        if not any(trained):
            return Dropped(example.id, "there is no target: no token of the row carries loss")
        if length <= limit:
            return Rendered(ids, trained, ids[:prompt], [], length, 0, marks)
        refusal = self._too_long(example, length)
        if refusal is not None:
            return refusal
        keep = cut_row(trained, prompt=prompt, head=head, limit=limit, left=left)
        kept = [trained[i] and place > 0 for place, i in enumerate(keep)]
        if not any(kept):
            return Dropped(example.id, f"no token of the target fits into {limit} tokens")
        given = [i for i in cut_row(trained, prompt=prompt, head=head, limit=limit, left=True) if i < prompt]
        lost = sum(trained) - sum(kept)
        return Rendered([ids[i] for i in keep], kept, [ids[i] for i in given], [], length, lost, marks)

    def _too_long(self, example: Example, length: int) -> Dropped | Fault | None:
        limit = self.config.max_length
        if self.config.on_too_long == "drop":
            return Dropped(example.id, f"it is too long: {length} tokens, of which {limit} fit")
        if self.config.on_too_long == "error":
            return Fault("(row)", f"at most {limit} tokens", f"{length}", "raise `max_length` or set `on_too_long`")
        return None

    def _pairs(self, examples: Sequence[Example]) -> list[Outcome]:
        for example in examples:
            if example.prompt is None or example.completion is None:
                raise UserError(
                    "an encoder-decoder learns from a prompt and a completion, and this row is a "
                    + ("conversation" if example.messages is not None else "plain text"),
                    where=example.id,
                    fix="give `prompt` and `completion` templates, and leave `render.chat` at `auto`",
                )
        if not examples:
            return []
        inputs = self.tokenizer([e.prompt or "" for e in examples], verbose=False)["input_ids"]
        targets = self.tokenizer(text_target=[e.completion or "" for e in examples], verbose=False)["input_ids"]
        return [self._pair(e, list(i), list(t)) for e, i, t in zip(examples, inputs, targets, strict=True)]

    def _pair(self, example: Example, given: list[int], target: list[int]) -> Outcome:
        if self.encoder.eos is not None and (not target or target[-1] != self.encoder.eos):
            target.append(self.encoder.eos)
        limit, length = self.config.max_length, len(given) + len(target)
        longest = max(len(given), len(target))
        if longest > limit:
            refusal = self._too_long(example, longest)
            if refusal is not None:
                return refusal
        kept_input, kept_target = cut_pair(given, target, suffix=len(self.encoder.suffix), limit=limit)
        lost = len(target) - len(kept_target)
        marks = self._remarks(f"{example.prompt}{example.completion}")
        return Rendered(kept_input, [False] * len(kept_input), kept_input, kept_target, length, lost, marks)
