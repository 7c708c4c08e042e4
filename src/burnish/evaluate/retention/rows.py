"""The retention set as tokens of one model: texts, and each question with each of its choices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from burnish.data.render import Rendered
from burnish.data.table import TokenTable
from burnish.evaluate.retention.sources import Item, Passage, RetentionSet
from burnish.models.forward import positions_of
from burnish.models.load import Loaded
from burnish.models.route import tasks_of


@dataclass(frozen=True)
class RetentionRows:
    """What is scored, as tokens.

    Attributes:
        passages: The texts.
        texts: A row for each text; every token but the first is predicted (of an encoder-decoder: the second half).
        items: The questions.
        answers: A row for each choice of each question, of which the choice is predicted.
    """

    passages: tuple[Passage, ...]
    texts: TokenTable
    items: tuple[Item, ...] = ()
    answers: TokenTable | None = None

    @property
    def domains(self) -> dict[str, list[int]]:
        """Rows of ``texts`` by domain."""
        return _grouped([p.domain for p in self.passages])

    @property
    def suites(self) -> dict[str, list[int]]:
        """Questions by suite."""
        return _grouped([i.suite for i in self.items])

    @property
    def places(self) -> NDArray[np.int64]:
        """[N + 1] where the predicted tokens of each text begin among those of all."""
        return np.concatenate([[0], np.cumsum(self.texts.trained_counts)]).astype(np.int64)

    @property
    def n_tokens(self) -> int:
        """Tokens that go through the model."""
        return self.texts.n_tokens + (self.answers.n_tokens if self.answers else 0)

    def between(self, rows: int) -> tuple[RetentionRows, list[int]]:
        """The first texts of each domain without the questions, and which rows they are."""
        chosen = [row for own in self.domains.values() for row in own[:rows]]
        return replace(
            self,
            passages=tuple(self.passages[r] for r in chosen),
            texts=self.texts.take(chosen),
            items=(),
            answers=None,
        ), chosen


def make_rows(
    known: RetentionSet, loaded: Loaded, max_length: int, virtual_tokens: int = 0, extra_choices: bool = True
) -> RetentionRows:
    """Tokenise the retention set for a model.

    Texts are cut at ``max_length``, and at the positions that the model has beside its virtual tokens; a text of fewer
    than two tokens predicts nothing and is left out. Where parts of the model are for rows of some tasks, the rows are
    of each task in turn.

    Args:
        known: Texts and questions.
        loaded: The model and its tokenizer.
        max_length: Tokens of a text.
        virtual_tokens: Tokens that adapters put before every row.
        extra_choices: Whether the questions are asked: a model whose head chooses classes cannot answer them.
    """
    positions = positions_of(loaded.model.config)
    most = max_length if positions is None else max(2, min(max_length, positions - virtual_tokens))
    names = tuple(sorted(tasks_of(loaded.model)))
    tokens = [_ids(loaded, p.text)[:most] for p in known.passages]
    kept = [(p, ids) for p, ids in zip(known.passages, tokens, strict=True) if len(ids) > 1]
    build = _half if loaded.kind == "seq2seq" else _whole
    texts = _table([build(ids) for _, ids in kept], names)
    passages = tuple(p for p, _ in kept)
    items = [(item, _choices(loaded, item, most)) for item in known.items] if extra_choices else []
    asked = [(item, rows) for item, rows in items if all(row.n_trained for row in rows)]
    answers = _table([row for _, rows in asked for row in rows], names)
    return RetentionRows(passages, texts, tuple(item for item, _ in asked), answers if asked else None)


def _grouped(names: Sequence[str]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(names):
        groups.setdefault(name, []).append(place)
    return groups


def _table(rows: Sequence[Rendered], names: tuple[str, ...]) -> TokenTable:
    tasks = [names[i % len(names)] for i in range(len(rows))] if names else []
    return TokenTable.build([str(i) for i in range(len(rows))], rows, tasks, names)


def _ids(loaded: Loaded, text: str) -> list[int]:
    return list(loaded.tokenizer(text, verbose=False)["input_ids"])


def _whole(ids: list[int]) -> Rendered:
    return Rendered(ids, [False] + [True] * (len(ids) - 1), [], [], len(ids))


def _half(ids: list[int]) -> Rendered:
    place = len(ids) // 2
    return Rendered(ids[:place], [False] * place, ids[:place], ids[place:], len(ids))


def _choices(loaded: Loaded, item: Item, most: int) -> list[Rendered]:
    """Each choice behind its question; they part at the first token in which two of them differ."""
    if loaded.kind == "seq2seq":
        prompt = _ids(loaded, item.question)[:most]
        rows = [_ids(loaded, choice) for choice in item.choices]
        return [Rendered(prompt, [False] * len(prompt), prompt, row, len(prompt) + len(row)) for row in rows]
    rows = [_ids(loaded, item.question + choice) for choice in item.choices]
    shortest = min(map(len, rows))
    start = min(_common(rows), shortest - 1)  # a choice that begins as another one does still has a token of its own
    cut = max(0, max(map(len, rows)) - most)  # of a question that is too long the beginning
    if start - cut < 1:
        return [Rendered(row, [False] * len(row), [], [], len(row)) for row in rows]
    return [_behind(row[cut:], start - cut) for row in rows]


def _behind(ids: list[int], start: int) -> Rendered:
    return Rendered(ids, [False] * start + [True] * (len(ids) - start), ids[:start], [], len(ids))


def _common(rows: Sequence[Sequence[int]]) -> int:
    """How many tokens all rows have in common at their beginning."""
    shortest = min(map(len, rows))
    return next((i for i in range(shortest) if len({row[i] for row in rows}) > 1), shortest)
