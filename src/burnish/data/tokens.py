"""Text to token ids, cut at given borders: what stands before a border is tokenised as if nothing followed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from transformers import PreTrainedTokenizerBase

from burnish.core.errors import UserError

_CHUNK = 8192
_SEAM = 24  # characters on either side of a border that decide whether a token crosses it
_LAST_WORD = re.compile(r"\s?\S*\s*\Z")  # with the space that belongs to its first token
_FIRST_WORD = re.compile(r"\s*\S*")
_KNOWN_SEAMS = 1 << 14
_ANCHORS = ("\n", "0", "=", "a")

Seam = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Cut:
    """Token ids of a text, piece by piece.

    Attributes:
        pieces: Token ids between the borders.
        apart: A token of the whole text would have crossed a border.
    """

    pieces: list[list[int]]
    apart: bool


class Encoder:
    """A tokenizer as rendering needs it.

    Attributes:
        prefix: Special tokens that the tokenizer puts before a text by itself, such as BOS.
        suffix: Special tokens that it puts behind a text by itself.
        eos: Id of the end-of-sequence token, or None.
        special: Matches the text of any special or added token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self.prefix, self.suffix = _frame(tokenizer)
        self.eos: int | None = tokenizer.eos_token_id
        self.special_texts = _special_texts(tokenizer)
        pattern = "|".join(re.escape(t) for t in self.special_texts)
        self.special = re.compile(pattern) if pattern else re.compile(r"(?!)")
        self._fast = bool(getattr(tokenizer, "is_fast", False))
        self._seams: dict[Seam, bool] = {}
        self._spaced = self._puts_space_first()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text that stands at the beginning; no special tokens are added."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of many texts; no special tokens are added."""
        if not texts:
            return []
        backend = getattr(self.tokenizer, "backend_tokenizer", None) if self._fast else None
        if backend is not None and backend.truncation is None and backend.padding is None:
            # The wrapper builds lists of every field of every token; the library beneath it is three times as fast.
            return [e.ids for e in backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        given = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in given["input_ids"]]

    def encode_with_places(self, texts: Sequence[str]) -> list[list[tuple[int, int, int]]]:
        """Token ids of many texts, each with the characters that it stands for: id, first, one behind the last.

        Raises:
            UserError: The tokenizer cannot tell.
        """
        if not self._fast:
            raise UserError(
                "this tokenizer cannot tell which characters a token stands for, and places in the text are learnt",
                where=type(self.tokenizer).__name__,
                fix="name a model with a fast tokenizer (a tokenizer.json)",
            )
        if not texts:
            return []
        given = self.tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [
            [(i, a, b) for i, (a, b) in zip(ids, places, strict=True)]
            for ids, places in zip(given["input_ids"], given["offset_mapping"], strict=True)
        ]

    def continuations(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts that follow others: without the space that some tokenizers put before a first word."""
        if not self._spaced:
            return self.encode_batch(texts)
        found: list[list[int] | None] = [[] if not t else None for t in texts]
        for anchor in _ANCHORS:
            open_ = [i for i, ids in enumerate(found) if ids is None]
            alone = self.encode(anchor)
            for i, both in zip(open_, self.encode_batch([anchor + texts[i] for i in open_]), strict=True):
                if both[: len(alone)] == alone:
                    found[i] = both[len(alone) :]
        return [self.encode(t) if ids is None else ids for t, ids in zip(texts, found, strict=True)]

    def cut(self, texts: Sequence[str], borders: Sequence[Sequence[int]]) -> list[Cut]:
        """Tokenise texts piece by piece, cut at their borders.

        The piece before a border is tokenised as if nothing followed, because that is what the model is given when it
        generates. Most borders lie between tokens anyway; ``Cut.apart`` tells the others.

        Args:
            texts: The texts.
            borders: For each text the ascending places of its cuts, in characters, each within the text.
        """
        pieces = [_pieces(text, places) for text, places in zip(texts, borders, strict=True)]
        first = _each(self.encode_batch, [p[0] for p in pieces])
        later = _each(self.continuations, [t for p in pieces for t in p[1:]])
        seams = [[_seam(before, after) for before, after in pairwise(p)] for p in pieces]
        crossed = self._crossed(dict.fromkeys(seam for row in seams for seam in row))
        return [
            Cut([first[p[0]], *(later[t] for t in p[1:])], any(crossed[seam] for seam in row))  # no list is changed
            for p, row in zip(pieces, seams, strict=True)
        ]

    def _crossed(self, seams: Iterable[Seam]) -> dict[Seam, bool]:
        """Whether a token would cross the border between two texts; judged by the words at the border."""
        if len(self._seams) > _KNOWN_SEAMS:  # where every row has words of its own, remembering them only takes memory
            self._seams.clear()
        asked = list(seams)
        new = [seam for seam in asked if seam not in self._seams]
        before = self.encode_batch([last for last, _ in new])
        after = self.continuations([first for _, first in new])
        whole = self.encode_batch([last + first for last, first in new])
        for seam, one, two, both in zip(new, before, after, whole, strict=True):
            self._seams[seam] = one + two != both
        return {seam: self._seams[seam] for seam in asked}

    def _puts_space_first(self) -> bool:
        """Whether a text alone begins with a space that it does not have behind another text."""
        alone = self.encode("a")
        both, anchor = self.encode("\na"), self.encode("\n")
        return both[: len(anchor)] != anchor or both[len(anchor) :] != alone


def _seam(before: str, after: str) -> Seam:
    """The words on both sides of a border."""
    last, first = _LAST_WORD.search(before[-_SEAM:]), _FIRST_WORD.match(after[:_SEAM])
    return (last.group() if last else "", first.group() if first else "")


def _pieces(text: str, places: Sequence[int]) -> list[str]:
    return [text[a:b] for a, b in pairwise([0, *places, len(text)])]


def _each(encode: Callable[[Sequence[str]], list[list[int]]], texts: Sequence[str]) -> dict[str, list[int]]:
    """Every distinct text once: labels and ends of turns repeat."""
    distinct = list(dict.fromkeys(texts))
    found: dict[str, list[int]] = {}
    for start in range(0, len(distinct), _CHUNK):
        chunk = distinct[start : start + _CHUNK]
        found.update(zip(chunk, encode(chunk), strict=True))
    return found


def _frame(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    plain = list(tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"])
    framed = list(tokenizer("a", add_special_tokens=True, verbose=False)["input_ids"])
    for start in range(len(framed) - len(plain) + 1):
        if framed[start : start + len(plain)] == plain:
            return framed[:start], framed[start + len(plain) :]
    return [], []


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    texts = {str(t.content) for t in added.values()} | {str(t) for t in tokenizer.all_special_tokens}
    return sorted((t for t in texts if t.strip()), key=lambda t: (-len(t), t))  # the longest match comes first
