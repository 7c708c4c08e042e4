"""New texts answered by a model with a head: a table from its task to how it is asked and what it says."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from burnish.core.errors import UserError
from burnish.core.task_labels import numbers_of, parted
from burnish.data.config import RenderConfig
from burnish.data.example import Example
from burnish.data.labelled import LabelledRenderer
from burnish.data.render import Rendered
from burnish.data.spans import NONE, SpanRenderer
from burnish.data.table import TokenTable
from burnish.data.tagged import TaggedRenderer
from burnish.data.valued import PairRenderer, ScoredRenderer, SeveralRenderer
from burnish.evaluate.answers import answer_of, find_answers
from burnish.evaluate.classes import head_of, probabilities, refuse_no_task
from burnish.evaluate.entities import entities
from burnish.evaluate.head_rows import HeadRows, all_logits, head_passes
from burnish.evaluate.loss import View, batch_tokens
from burnish.evaluate.numbers import thresholds_of
from burnish.evaluate.tags import share_of, tag_words, words_example
from burnish.models.forward import positions_of, supports_packing
from burnish.models.load import Loaded
from burnish.models.route import for_task, tasks_of

Texts = Sequence[str]
Pairs = Sequence[str | None]
Answers = list[dict[str, Any]]
_WORD = re.compile(r"\w+(?:[-'’]\w+)*|[^\w\s]")
"""A word, with hyphens and apostrophes in it, or a mark of punctuation: as tagged texts are cut."""


def answer_texts(loaded: Loaded, texts: Texts, pairs: Pairs | None = None, task: str | None = None) -> Answers:
    """What a model's head says of each text.

    Args:
        loaded: The model with its head.
        texts: The texts; the questions of extractive question answering.
        pairs: The second text of each, or its context; None for none.
        task: The task of all texts, for a model with a head, or other parts, for each of several.

    Returns:
        For each text a mapping with ``text`` and, by the head's task: ``label`` and ``probabilities`` (of the classes
        of ``task``, under their own names, where tasks have some); ``labels`` and
        ``probabilities``; ``entities``, each with ``start``, ``end`` (characters), ``label``, ``score`` and ``text``;
        ``answer`` with ``start``, ``end``, ``probability`` and the n ``best``; ``score``.

    Raises:
        UserError: The model has no head, a text has no tokens, a question has no context, or a task is not named.
    """
    seconds: Pairs = pairs if pairs is not None else [None] * len(texts)
    own = head_of(loaded).class_tasks
    refuse_no_task(head_of(loaded), task)
    ask = partial(_own_class, task=task) if own else ANSWERS[head_of(loaded).task]
    parts = task if not own or task in tasks_of(loaded.model) else None  # a task may own nothing but its head
    with for_task(loaded.model, parts):
        said = ask(loaded, texts, seconds)
    return [{"text": text, **one} for text, one in zip(texts, said, strict=True)]


def line_of(loaded: Loaded, answer: Mapping[str, Any]) -> str:
    """An answer in one line for a person, apart by tabs."""
    return LINES[head_of(loaded).task](answer)


def _settings(loaded: Loaded) -> RenderConfig:
    return RenderConfig(max_length=positions_of(loaded.model.config) or RenderConfig().max_length)


def _view(loaded: Loaded) -> View:
    layout = "packed" if supports_packing(loaded.model) else "bucketed"
    return View(loaded, layout, batch_tokens(loaded), nullcontext)  # type: ignore[arg-type]


def _rows(renderer: LabelledRenderer, examples: Sequence[Example]) -> HeadRows:
    """Examples as rows.

    Raises:
        UserError: One has no tokens.
    """
    kept: list[Example] = []
    rows: list[Rendered] = []
    for example, outcome in zip(examples, renderer.render_all(examples), strict=True):
        made = outcome if isinstance(outcome, tuple) else (outcome,)
        if not all(isinstance(row, Rendered) for row in made):
            raise UserError("a text without tokens has no answer", where=example.id, fix="leave it out")
        rows += [row for row in made if isinstance(row, Rendered)]
        kept += [example] * len(made)
    return HeadRows(TokenTable.build([e.id for e in kept], rows), kept, renderer)


def _class(loaded: Loaded, texts: Texts, pairs: Pairs) -> Answers:
    labels = head_of(loaded).labels
    seconds = [p or "" for p in pairs] if any(p is not None for p in pairs) else None
    return [
        {
            "label": labels[int(row.argmax())],
            "probabilities": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        for row in probabilities(loaded, texts, seconds)
    ]


def _own_class(loaded: Loaded, texts: Texts, pairs: Pairs, *, task: str | None) -> Answers:
    """The likeliest class of a task, under its own name, among those of this task."""
    head = head_of(loaded)
    classes = numbers_of(head.class_tasks, str(task))
    labels = [parted(head.labels[number])[1] for number in classes]
    seconds = [p or "" for p in pairs] if any(p is not None for p in pairs) else None
    return [
        {
            "task": task,
            "label": labels[int(row.argmax())],
            "probabilities": {label: float(p) for label, p in zip(labels, row, strict=True)},
        }
        for row in probabilities(loaded, texts, seconds, task)[:, classes]
    ]


def _plain(texts: Texts, pairs: Pairs, **target: Any) -> list[Example]:
    both = enumerate(zip(texts, pairs, strict=True), 1)
    return [Example(f"text {i}", prompt=text, pair=pair, **target) for i, (text, pair) in both]


def _several(loaded: Loaded, texts: Texts, pairs: Pairs) -> Answers:
    head = head_of(loaded)
    rows = _rows(SeveralRenderer(loaded.tokenizer, _settings(loaded), head.labels), _plain(texts, pairs))
    shares = 1 / (1 + np.exp(-np.clip(all_logits(_view(loaded), rows)[1], -500, 500)))
    limits = thresholds_of(head.settings, len(head.labels))
    return [
        {
            "labels": [n for n, p, limit in zip(head.labels, row, limits, strict=True) if p >= limit],
            "probabilities": {n: float(p) for n, p in zip(head.labels, row, strict=True)},
        }
        for row in shares
    ]


def _entities(loaded: Loaded, texts: Texts, pairs: Pairs) -> Answers:
    renderer = TaggedRenderer(loaded.tokenizer, _settings(loaded), head_of(loaded).labels)
    words = [list(_WORD.finditer(text)) for text in texts]
    named = [
        words_example([w.group() for w in found], renderer, f"text {i}") for i, found in enumerate(words, 1) if found
    ]
    tagged = chain.from_iterable(tag_words(_view(loaded), _rows(renderer, named))[1]) if named else iter(())
    said = []
    for text, places in zip(texts, words, strict=True):
        _, tags, shares = next(tagged) if places else (None, [], [])
        found = []
        for entity in entities(tags):
            start, end = places[entity.start].start(), places[entity.end - 1].end()
            score = share_of(entity, shares)
            found.append({"start": start, "end": end, "label": entity.label, "score": score, "text": text[start:end]})
        said.append({"entities": found})
    return said


def _answer(loaded: Loaded, texts: Texts, pairs: Pairs) -> Answers:
    head = head_of(loaded)
    missing = next((i for i, pair in enumerate(pairs, 1) if not (pair or "").strip()), None)
    if missing is not None:
        fix = 'give one: burnish classify RUN "Who wrote it?" --context "It was written by …"'
        raise UserError("a question needs its context", where=f"text {missing}", fix=fix)
    renderer = SpanRenderer(loaded.tokenizer, _settings(loaded), (*head.labels, NONE))
    _, found = find_answers(_view(loaded), _rows(renderer, _plain(texts, pairs)))
    said = []
    for example, tokens, one in chain.from_iterable(found):
        answer = answer_of(example, tokens, one, head.settings)
        said.append({"answer": answer["text"], **{k: answer[k] for k in ("start", "end", "probability", "best")}})
    return said


def _score(loaded: Loaded, texts: Texts, pairs: Pairs) -> Answers:
    settings = head_of(loaded).settings
    unit = (repr(settings["mean"]), repr(settings["deviation"]))
    renderer = ScoredRenderer(loaded.tokenizer, _settings(loaded), unit)
    logits = all_logits(_view(loaded), _rows(renderer, _plain(texts, pairs)))[1]
    return [{"score": float(value) * renderer.deviation + renderer.mean} for value in logits[:, 0]]


def _reward(loaded: Loaded, texts: Texts, pairs: Pairs) -> Answers:
    """With a second text, the first one is the prompt that it answers."""
    renderer = PairRenderer(loaded.tokenizer, _settings(loaded), head_of(loaded).labels)
    both = [("", text) if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)]
    rows = [renderer.render_one(prompt, text) for prompt, text in both]
    examples = _plain(texts, pairs)
    table = TokenTable.build([e.id for e in examples], rows)
    found = np.zeros(len(rows))
    view = _view(loaded)
    for one in head_passes(view, table):
        found[one.rows] = one.logits[:, 0].double().cpu().numpy()
    return [{"score": float(value)} for value in found]


def _say_entities(answer: Mapping[str, Any]) -> str:
    found = [f"{e['label']} {e['start']}-{e['end']} {e['score']:.3f} {e['text']}" for e in answer["entities"]]
    return "\t".join(["; ".join(found) or "(none)", answer["text"]])


def _say_class(answer: Mapping[str, Any]) -> str:
    return f"{answer['label']}\t{max(answer['probabilities'].values()):.3f}\t{answer['text']}"


ANSWERS: Mapping[str, Callable[[Loaded, Texts, Pairs], Answers]] = {
    "classification": _class,
    "multi-label": _several,
    "token-classification": _entities,
    "extractive-qa": _answer,
    "regression": _score,
    "ranking": _reward,
}
LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "classification": _say_class,
    "multi-label": lambda answer: f"{', '.join(answer['labels']) or '(none)'}\t{answer['text']}",
    "token-classification": _say_entities,
    "extractive-qa": lambda answer: (
        f"{answer['answer'] or '(no answer)'}\t{answer['probability']:.3f}\t{answer['text']}"
    ),
    "regression": lambda answer: f"{answer['score']:.4g}\t{answer['text']}",
    "ranking": lambda answer: f"{answer['score']:+.4f}\t{answer['text']}",
}
