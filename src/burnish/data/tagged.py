"""Rows of a token classification: words with a tag each, as tokens of which some carry the tags."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any
from unicodedata import combining, normalize

import numpy as np
from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError
from burnish.core.findings import Finding
from burnish.data.config import ChatMode, RenderConfig, SourceConfig
from burnish.data.example import Example
from burnish.data.formats import Plan
from burnish.data.labelled import LabelledRenderer
from burnish.data.recheck import TOLERATED, squeezed
from burnish.data.render import Kind, Outcome, Rendered, Renderer
from burnish.data.rows import Dropped, Read
from burnish.data.splits import Values
from burnish.data.table import TokenTable
from burnish.data.task_formats import plan_task
from burnish.data.windows import settle_stride, windows

IGNORED = -100
OUTSIDE = "O"
_BETWEEN = "\x1f"
_SHOWN = 8


def kind_of(tag: str) -> str:
    """What an entity's tag says: ``B-PER`` and ``I-PER`` say ``PER``; empty for ``O`` and for plain tags."""
    return tag[2:] if tag[:2] in ("B-", "I-") else ""


@dataclass(frozen=True)
class Aligned:
    """The tokens of a text, and the words that they belong to.

    Attributes:
        ids: [T] tokens.
        words: [T] number of each token's word, -1 for none.
        firsts: [T] whether it is the first token of its word.
    """

    ids: list[int]
    words: list[int]
    firsts: list[bool]

    @property
    def order(self) -> list[int]:
        """The words that have a token, in the order of their first ones."""
        return [w for w, first in zip(self.words, self.firsts, strict=True) if first]


class TaggedRenderer(LabelledRenderer):
    """Words as a tokenizer frames their text, each tag on the first token of its word.

    A text that is longer than a row is read in windows; each word's tag is learnt in one of them. ``trained`` marks the
    tokens that decide a word's tag.

    Args:
        tokenizer: The model's tokenizer, which must know what its tokens stand for.
        config: Length, and what to do with longer rows.
        labels: Names of the tags.
        every: Put tags on the other tokens of a word too, ``B-`` as ``I-`` there.
        stride: Tokens that windows share; a quarter of a row if None.
    """

    task = "token-classification"

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: RenderConfig,
        labels: Sequence[str],
        *,
        every: bool = False,
        stride: int | None = None,
    ) -> None:
        super().__init__(tokenizer, config, labels)
        self.every, self.stride = every, stride
        if not any(tag in self._numbers for tag in map(str, range(len(self.labels)))):
            self._numbers |= {str(i): i for i in range(len(self.labels))}  # tags that are given by number
        self._later = [self._numbers.get(f"I-{kind_of(t)}", i) if kind_of(t) else i for i, t in enumerate(self.labels)]

    def tags_of(self, example: Example) -> list[str]:
        """The names of an example's tags."""
        return [self.labels[self._numbers[tag]] for tag in example.marks]

    def align(self, examples: Sequence[Example]) -> list[Aligned]:
        """Tokens and words of examples.

        A token belongs to the word that its last character stands in, since some tokenizers count the space before a
        word to its first token.
        """
        found = self.encoder.encode_with_places([e.prompt or "" for e in examples])
        return [_aligned(tokens, example.items) for tokens, example in zip(found, examples, strict=True)]

    def render_all(self, examples: Sequence[Example]) -> list[Outcome]:
        """Render many examples at once; each gives one row or several windows, a reason to drop it, or a fault."""
        return [self._cut(e, a) for e, a in zip(examples, self.align(examples), strict=True)]

    def _cut(self, example: Example, text: Aligned) -> Outcome:
        prefix, suffix = self._alone.prefix, self._alone.suffix
        framed = len(prefix) + len(suffix)
        room, length = self.config.max_length - framed, framed + len(text.ids)
        if not any(text.firsts):
            return Dropped(example.id, "the text has no tokens")
        if length > self.config.max_length and self.config.on_too_long != "truncate":
            refusal = self._too_long(example, length)
            assert refusal is not None
            return refusal
        stride = settle_stride(self.stride, room, self.config.max_length) if len(text.ids) > room else 0
        cut = windows(len(text.ids), room, stride)
        marks = self._remarks(example.prompt or "") + ("window",) * (len(cut) > 1)
        marks += ("word-without-token",) * (len(text.order) < len(example.items))
        numbers = [self._numbers[tag] for tag in example.marks]
        rows = []
        for window in cut:
            deciding, labels = self._labels(text, numbers, window.own, window.own_end)
            if not any(deciding):
                continue
            here = slice(window.begin, window.end)
            ids = prefix + text.ids[here] + suffix
            outer = ([False] * len(prefix), [False] * len(suffix))
            token_labels = (IGNORED,) * len(prefix) + tuple(labels[here]) + (IGNORED,) * len(suffix)
            trained = outer[0] + deciding[here] + outer[1]
            rows.append(Rendered(ids, trained, ids, [], len(ids), 0, marks, None, token_labels))
        return tuple(rows)

    def _labels(self, text: Aligned, numbers: Sequence[int], own: int, own_end: int) -> tuple[list[bool], list[int]]:
        """For all tokens of a text: which decide a tag in a window, and what is learnt there."""
        deciding = [first and own <= i < own_end for i, first in enumerate(text.firsts)]
        labels, inside = [IGNORED] * len(text.ids), False
        for i, word in enumerate(text.words):
            inside = deciding[i] if text.firsts[i] or word < 0 else inside
            if deciding[i]:
                labels[i] = numbers[word]
            elif self.every and inside and word >= 0:
                labels[i] = self._later[numbers[word]]
        return deciding, labels


def _aligned(tokens: Sequence[tuple[int, int, int]], words: Sequence[str]) -> Aligned:
    starts = [0, *accumulate(len(w) + 1 for w in words)][: len(words)]
    owners, firsts, last = [], [], -1
    for _, begin, end in tokens:
        word = bisect_right(starts, end - 1) - 1 if end > begin else -1
        if word >= 0 and end - 1 >= starts[word] + len(words[word]):
            word = -1
        owners.append(word)
        firsts.append(word > last)
        last = max(last, word)
    return Aligned([t for t, _, _ in tokens], owners, firsts)


@dataclass(frozen=True)
class TaggedTask:
    """Learns the tags of words.

    Attributes:
        labels: Names of the tags, in their order; empty to find them in the training rows.
        every: Whether all tokens of a word learn its tag.
        stride: Tokens that windows share.
    """

    labels: tuple[str, ...] = ()
    every: bool = False
    stride: int | None = None

    @property
    def asked(self) -> list[str]:
        """All that decides about tokens and tags."""
        return [TaggedRenderer.task, str(self.every), str(self.stride), *self.labels]

    def label_of(self, example: Example) -> str:
        """The different tags of an example, as one text."""
        return _BETWEEN.join(sorted(set(example.marks)))

    def plan(self, source: SourceConfig, read: Read, chat: ChatMode) -> Plan:
        """Which columns hold words and tags."""
        return plan_task(source, list(read.columns), "token_classification")

    def settle(self, labels: Mapping[str, Values]) -> tuple[str, ...]:
        """The names of the tags, given or found: ``O`` first, then by kind, ``B-`` before ``I-``.

        Raises:
            UserError: There are fewer than two, they mix plain tags with BIO tags, or a row has one that is none of
                them.
        """
        found = {tag for sets in labels["train"].distinct() for tag in sets.split(_BETWEEN)}
        known = self.labels or tuple(sorted(found, key=lambda t: (t != OUTSIDE, kind_of(t), t)))
        if not self.labels and found and all(t.lstrip("-").isdigit() for t in found):
            raise UserError(
                "the tags are numbers, and nothing says what they mean",
                where="data.train",
                fix="list the names in their order: `task: {kind: token-classification, labels: [O, B-PER, I-PER]}`",
            )
        if len(known) < 2:
            shown = f"only `{known[0]}`" if known else "none"
            raise UserError(
                f"a token classification needs two tags, and the training rows have {shown}", where="data.train"
            )
        plain = [t for t in known if t != OUTSIDE and not kind_of(t)]
        if plain and len(plain) < len(known) - (OUTSIDE in known):
            raise UserError(
                f"tags are either all of the form `O`, `B-…`, `I-…` or none is; `{plain[0]}` is not",
                where="task.labels" if self.labels else "data.train",
                fix="write other schemes as BIO: the first word of an entity `B-KIND`, the others `I-KIND`",
            )
        _refuse_unknown(known, labels, given=bool(self.labels))
        return known

    def renderer(
        self, tokenizer: PreTrainedTokenizerBase, config: RenderConfig, kind: Kind, labels: tuple[str, ...]
    ) -> Renderer:
        """Words as tokens with their tags."""
        return TaggedRenderer(tokenizer, config, labels, every=self.every, stride=self.stride)

    def look_again(self, name: str, sample: Sequence[tuple[Example, Rendered]], renderer: Renderer) -> list[Finding]:
        """Tags that stand on other words, and entities that begin with ``I-``."""
        assert isinstance(renderer, TaggedRenderer)
        wrong = [example.id for example, row in sample if not _fits(example, row, renderer)]
        findings = _orphans(name, sample, renderer)
        if len(wrong) > TOLERATED * len(sample):
            findings.append(
                Finding(
                    "stop",
                    "render.tag-on-another-word",
                    f"in {len(wrong)} of {len(sample)} {name} rows that were decoded again, a tag is not on its word",
                    wrong[0],
                    "The model would learn to tag words that nobody tagged.",
                    "look at them with `burnish inspect`",
                    {"rows": len(wrong), "of": len(sample), "first": wrong[:20]},
                )
            )
        return findings

    def describe(
        self, splits: Mapping[str, dict[str, Any]], tables: Mapping[str, TokenTable], labels: tuple[str, ...]
    ) -> list[Finding]:
        """Count the rows that hold each kind of entity, in each split."""
        kinds = list(dict.fromkeys(kind_of(t) or t for t in labels if t != OUTSIDE))
        places = [kinds.index(kind_of(t) or t) if t != OUTSIDE else -1 for t in labels]
        for name, table in tables.items():
            splits[name]["classes"] = _rows_with(table, kinds, places)
        counts = splits["train"]["classes"]
        shown = ", ".join(f"{k} {n:,}" for k, n in list(counts.items())[:12])
        notes = [
            Finding("note", "data.tags", f"{len(labels)} tags; training rows that hold each: {shown}", "task.labels")
        ]
        for name, split in splits.items():
            absent = [k for k, n in split["classes"].items() if not n]
            if absent and len(tables[name]):
                severity = "warning" if name == "train" else "note"
                what = f"no {name} row holds {', '.join(f'`{k}`' for k in absent[:_SHOWN])}"
                why = "Nothing teaches it." if name == "train" else "Nothing measures it there."
                notes.append(Finding(severity, "data.class-without-rows", what, f"data.{name}", why))  # type: ignore[arg-type]
        return notes


def _rows_with(table: TokenTable, kinds: Sequence[str], places: Sequence[int]) -> dict[str, int]:
    """How many rows of a table hold each kind."""
    owners = np.repeat(np.arange(len(table)), np.diff(table.offsets))
    at = np.flatnonzero(table.token_labels >= 0)
    kind = np.asarray([*places, -1])[table.token_labels[at]]
    pairs = np.unique(np.stack([owners[at], kind], 1)[kind >= 0], axis=0)
    counts = np.bincount(pairs[:, 1], minlength=len(kinds)) if len(pairs) else np.zeros(len(kinds), dtype=int)
    return {k: int(n) for k, n in zip(kinds, counts, strict=True)}


def _refuse_unknown(known: Sequence[str], parts: Mapping[str, Values], *, given: bool) -> None:
    allowed = {*known, *map(str, range(len(known)))} if given else set(known)
    for part, values in parts.items():
        wrong = {text: set(text.split(_BETWEEN)) - allowed for text in values.distinct()}
        odd = sorted({tag for tags in wrong.values() for tag in tags})
        if odd:
            rows = values.at(values.outside([text for text, tags in wrong.items() if not tags]))
            of = "`task.labels`" if given else "the tags of the training rows"
            raise UserError(
                f"{len(rows.codes):,} rows have a tag that is none of {of}: "
                + ", ".join(f"`{t[:40]}`" for t in odd[:_SHOWN]),
                where=f"data.{part}, row {rows.names[0]}",
                fix="mend these rows, or list every tag in `task.labels`",
            )


def _fits(example: Example, row: Rendered, renderer: TaggedRenderer) -> bool:
    """Whether the words that begin with each deciding token have that token's tag, somewhere in the example."""
    words = {(_plain(w), tag) for w, tag in zip(example.items, renderer.tags_of(example), strict=True)}
    special = set(renderer.tokenizer.all_special_ids)
    for token, decides, label in zip(row.input_ids, row.trained, row.token_labels, strict=True):
        if decides and token not in special:
            piece = _plain(renderer.tokenizer.decode([token]))
            if label < 0 or (
                piece.isascii() and not any(w.startswith(piece) and renderer.labels[label] == t for w, t in words)
            ):
                return False
    return True


def _plain(text: str) -> str:
    """Text without case and accents, which some tokenizers take away."""
    return "".join(c for c in normalize("NFKD", squeezed(text)) if not combining(c))


def _orphans(name: str, sample: Sequence[tuple[Example, Rendered]], renderer: TaggedRenderer) -> list[Finding]:
    """Entities whose first word has ``I-``: another scheme than IOB2, in which they are none."""
    count: Counter[str] = Counter()
    for example, _ in sample:
        before = OUTSIDE
        for tag in renderer.tags_of(example):
            if tag.startswith("I-") and kind_of(before) != kind_of(tag):
                count[example.id] += 1
            before = tag
    if not count:
        return []
    return [
        Finding(
            "warning",
            "data.entity-begins-inside",
            f"in {len(count)} of {len(sample)} {name} rows looked at, an entity begins with `I-`, not `B-`",
            next(iter(count)),
            "In IOB2, which is what is scored, these words are no entity.",
            "Write the first word of every entity as `B-KIND`.",
            {"rows": len(count), "of": len(sample)},
        )
    ]
