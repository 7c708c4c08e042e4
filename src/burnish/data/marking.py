"""Tokens back to text, with the trained stretches apart from the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from transformers import PreTrainedTokenizerBase

from burnish.data.table import TokenTable


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of decoded text of a row, and whether its tokens carry loss."""

    text: str
    trained: bool

    def to_json(self) -> dict[str, Any]:
        """The stretch as a JSON object."""
        return {"text": self.text, "trained": self.trained}


def spans(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], trained: Sequence[bool]) -> list[Span]:
    """The decoded row, cut wherever the mask changes.

    Each stretch is what the decoded text gains by its tokens, so that joined they give the decoded row: some
    tokenizers drop a space when they decode a stretch alone.
    """
    ids = [int(i) for i in ids]
    edges = [0, *(i for i in range(1, len(ids)) if bool(trained[i]) != bool(trained[i - 1])), len(ids)]
    found: list[Span] = []
    before = ""
    for start, end in pairwise(edges):
        if start == end:
            continue
        upto = _decode(tokenizer, ids[:end])
        text = upto[len(before) :] if upto.startswith(before) else _decode(tokenizer, ids[start:end])
        found.append(Span(text, bool(trained[start])))
        before = upto
    return found


def row_spans(tokenizer: PreTrainedTokenizerBase, table: TokenTable, index: int) -> list[Span]:
    """The stretches of one row of a table; an encoder-decoder's target follows its input."""
    ids, trained = table.row(index)
    found = spans(tokenizer, ids.tolist(), trained.tolist())
    target = table.target(index).tolist()
    return found + ([Span(_decode(tokenizer, target), True)] if target else [])


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text
